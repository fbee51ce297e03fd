"""What all implementations of rANS streams share, without PyTorch or numba: numbers and checks.

`ladon.codec.rans` specifies the streams. There are three implementations, which write the same
bytes and refuse the same ones: numba's kernels there, `rans.c` (`ladon.codec.rans_native` loads
it) and `ladon.codec.rans_python`. A server and an evaluation use numba's, which the library needs
for its other kernels anyway; a device, on which numba alone would take 208 MB, one of the others.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from ladon.errors import CheckpointError

PRECISION = 16
FULL = 1 << PRECISION
# an escaped value is a 32-bit number: at most eight groups of four bits
MAX_BYPASS_GROUPS = 8
# worst case of one symbol: 16 bits, a group that counts, and eight groups: less than two words
WORDS_PER_SYMBOL = 2
# the decoder's look-up: symbol at the start of each run of 64 cumulative frequencies
LOOKUP_SHIFT = 6
LOOKUP_SIZE = FULL >> LOOKUP_SHIFT

TRUNCATED, LEFT_OVER, BAD_ESCAPE, BAD_ROW, NO_ROOM = 1, 2, 3, 4, 5
REASONS = {
    TRUNCATED: "it ends too early",
    LEFT_OVER: "it does not end where it should",
    BAD_ESCAPE: "an escape is too long",
    BAD_ROW: "a symbol names a table that is not there",
    NO_ROOM: "there is no room for its words",
}

_MAX_OFFSET = 1 << 30


class Rans(Protocol):
    """An implementation; tables are those that `check_rows` has let pass.

    Shapes and types are `ladon.codec.rans`'s; arrays are C-contiguous.
    """

    def encode(
        self,
        symbols: np.ndarray,
        rows: np.ndarray | None,
        cdf: np.ndarray,
        cdf_length: np.ndarray,
        offset: np.ndarray,
        words: np.ndarray,
    ) -> int:
        """Fill the end of `words`; return the index of the first one, or minus a reason."""

    def decode(
        self,
        words: np.ndarray,
        rows: np.ndarray | None,
        cdf: np.ndarray,
        cdf_length: np.ndarray,
        offset: np.ndarray,
        lookup: np.ndarray,
        symbols: np.ndarray,
    ) -> int:
        """Fill the symbols; return 0, or a reason of `REASONS`."""

    def build_lookup(self, cdf: np.ndarray, cdf_length: np.ndarray, lookup: np.ndarray) -> None:
        """Fill what `decode` looks symbols up in, [R, 1024] int32."""


def check_rows(cdf: np.ndarray, length: np.ndarray, offset: np.ndarray, row: str) -> None:
    """Refuse tables that no loop without bounds checks may read.

    Args:
        cdf: [R, W] int64 cumulative frequencies.
        length: [R] int64, entries used of each row.
        offset: [R] int64, value of each row's first symbol.
        row: what a row is for, for errors.

    Raises:
        CheckpointError: naming the first row that is unusable.
    """
    for number, (entries, size) in enumerate(zip(cdf, length, strict=True)):
        used = entries[:size] if 3 <= size <= len(entries) else entries[:0]
        if len(used) == 0 or used[0] != 0 or used[-1] != FULL or (np.diff(used) <= 0).any():
            raise CheckpointError(f"CDF table of {row} {number} is not a cumulative distribution")
        if abs(int(offset[number])) > _MAX_OFFSET:
            raise CheckpointError(f"CDF table of {row} {number} begins at {offset[number]}")
