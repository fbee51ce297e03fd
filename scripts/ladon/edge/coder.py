"""Payload strings of a factorised prior, without PyTorch: what `ladon.codec.LatentCoder` writes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ladon.codec import rans_python
from ladon.codec.rans_native import NativeRans, library_name
from ladon.codec.streams import LOOKUP_SIZE, REASONS, WORDS_PER_SYMBOL, Rans, check_rows
from ladon.edge.manifest import Manifest
from ladon.errors import (
    CheckpointError,
    DataError,
    LadonError,
    PayloadError,
    UsageError,
    in_one_line,
)

logger = logging.getLogger(__name__)

_ARRAYS = ("cdf", "length", "offset", "medians", "steps")
_LEAST_SYMBOL = -(2**31)


class FactorizedCoder:
    """Codes one image's latent, bit for bit as `ladon.codec.LatentCoder` does.

    Args:
        cdf: [C, W] int32 cumulative frequencies.
        length: [C] int32, entries used of each row.
        offset: [C] int32, value of each row's first symbol.
        medians: [C] float32.
        steps: [C] float32, to whose multiples around the medians latents are rounded; None: 1.
        rans: an implementation of the streams.

    Raises:
        CheckpointError: the tables are none that rANS can code with.
    """

    def __init__(
        self,
        cdf: np.ndarray,
        length: np.ndarray,
        offset: np.ndarray,
        medians: np.ndarray,
        steps: np.ndarray | None = None,
        rans: Rans = rans_python,
    ) -> None:
        channels = len(medians)
        steps = np.ones(channels, np.float32) if steps is None else steps
        shapes = tuple(table.shape for table in (length, offset, medians, steps))
        if cdf.ndim != 2 or len(cdf) != channels or shapes != ((channels,),) * 4:
            raise CheckpointError(f"CDF tables of odd shape: {cdf.shape}, {shapes}")
        wide_cdf, wide_length, wide_offset = (t.astype(np.int64) for t in (cdf, length, offset))
        check_rows(wide_cdf, wide_length, wide_offset, "channel")
        if not np.isfinite(medians).all() or not (np.isfinite(steps) & (steps > 0)).all():
            raise CheckpointError("the medians are not finite, or the steps not above 0")
        self._cdf, self._length, self._offset = (
            np.ascontiguousarray(table, np.int32) for table in (cdf, length, offset)
        )
        self._medians, self._steps = (t.astype(np.float32)[:, None] for t in (medians, steps))
        self._rans = rans
        self._lookup = np.zeros((channels, LOOKUP_SIZE), np.int32)
        rans.build_lookup(self._cdf, self._length, self._lookup)

    @property
    def channels(self) -> int:
        """C."""
        return len(self._medians)

    def symbols(self, latent: np.ndarray) -> np.ndarray:
        """Round a latent [C, h, w] float32 around its medians; return int32 [C, h, w].

        Halves go to the even neighbour; what 32 bits cannot hold becomes -2^31.
        """
        if latent.ndim != 3 or len(latent) != self.channels or latent.dtype != np.float32:
            raise UsageError(
                f"a latent of shape {latent.shape} of {latent.dtype} for a coder of "
                f"{self.channels} channels of float32"
            )
        rounded = np.rint((latent - self._medians[:, :, None]) / self._steps[:, :, None])
        fits = np.abs(rounded) < np.float32(-_LEAST_SYMBOL)
        return np.where(fits, rounded, np.float32(_LEAST_SYMBOL)).astype(np.int32)

    def encode(self, symbols: np.ndarray) -> bytes:
        """Encode symbols [C, h, w] int32."""
        flat = np.ascontiguousarray(symbols).reshape(len(symbols), -1)
        words = np.empty(WORDS_PER_SYMBOL * flat.size + 2, np.uint32)
        first = self._rans.encode(flat, None, self._cdf, self._length, self._offset, words)
        if first < 0:
            raise UsageError(f"symbols of shape {symbols.shape}: {REASONS[-first]}")
        return words[first:].astype("<u4", copy=False).tobytes()

    def decode(self, string: bytes, shape: Sequence[int]) -> np.ndarray:
        """Decode to symbols [C, h, w] int32; of sizes that one's own encoder gave.

        Raises:
            PayloadError: the string is truncated, extended or otherwise damaged.
        """
        if len(string) % 4:
            raise PayloadError(f"payload of {len(string)} bytes: not a whole number of words")
        symbols = np.empty((self.channels, shape[0] * shape[1]), np.int32)
        words = np.frombuffer(string, "<u4").astype(np.uint32)
        tables = self._cdf, self._length, self._offset, self._lookup
        status = self._rans.decode(words, None, *tables, symbols)
        if status:
            raise PayloadError(f"payload of {len(string)} bytes is damaged: {REASONS[status]}")
        return symbols.reshape(self.channels, *shape)

    def latent(self, symbols: np.ndarray) -> np.ndarray:
        """Return the latent [C, h, w] float32 that a server decodes of symbols."""
        return symbols.astype(np.float32) * self._steps[:, :, None] + self._medians[:, :, None]


class EdgeTables:
    """The coders of a folder: one, or of an encoder for every rate one for each level.

    Args:
        cdf: [L C, W] int32 cumulative frequencies, those of level l from row l C on.
        length: [L C] int32.
        offset: [L C] int32.
        medians: [C] float32.
        steps: [L, C] float32.
        rans: an implementation of the streams.

    Raises:
        CheckpointError: the first level's tables are none that rANS can code with.
    """

    def __init__(
        self,
        cdf: np.ndarray,
        length: np.ndarray,
        offset: np.ndarray,
        medians: np.ndarray,
        steps: np.ndarray,
        rans: Rans = rans_python,
    ) -> None:
        levels = len(steps)
        rows = levels * len(medians)
        if steps.ndim != 2 or not (len(cdf) == len(length) == len(offset) == rows) or not rows:
            raise CheckpointError(f"CDF tables of {len(cdf)} rows for steps of {steps.shape}")
        self._tables, self._medians, self._steps = (cdf, length, offset), medians, steps
        self._rans, self._coders = rans, dict[int, FactorizedCoder]()
        self.level(0)

    @classmethod
    def load(cls, path: Path, rans: Rans = rans_python) -> EdgeTables:
        """Read what `save` wrote.

        Raises:
            DataError: it is damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                cdf, length, offset, medians = (arrays[name] for name in _ARRAYS[:-1])
                # folders of format 1 have no steps
                steps = arrays["steps"] if "steps" in arrays else np.ones((1, len(medians)))
            return cls(cdf, length, offset, medians, steps.astype(np.float32), rans)
        except Exception as error:  # numpy's and zipfile's are arbitrary
            reason = in_one_line(error)
            raise DataError(f"{path} is damaged ({reason}): copy the folder anew") from error

    def save(self, path: Path) -> None:
        """Write the tables."""
        arrays = (*self._tables, self._medians, self._steps)
        np.savez_compressed(path, **dict(zip(_ARRAYS, arrays, strict=True)))

    def level(self, level: int = 0) -> FactorizedCoder:
        """Return the coder of a level, which is made when it is first used.

        Raises:
            CheckpointError: its tables are none that rANS can code with.
        """
        coder = self._coders.get(level)
        if coder is None:
            channels = len(self._medians)
            rows = slice(level * channels, (level + 1) * channels)
            cdf, length, offset = (table[rows] for table in self._tables)
            coder = FactorizedCoder(
                cdf, length, offset, self._medians, self._steps[level], self._rans
            )
            self._coders[level] = coder
        return coder


def fastest_rans(folder: Path, manifest: Manifest) -> Rans:
    """Return the compiled coder of a folder if it has one for this processor, else Python's.

    A person may have compiled it there, so that the folder's description does not know it.
    """
    name = library_name()
    path = folder / name
    if name not in manifest.files and not path.is_file():
        logger.info("%s has no %s: Python codes, slower, the same bytes", folder, name)
        return rans_python
    try:
        return NativeRans(manifest.check(folder, name) if name in manifest.files else path)
    except DataError:
        raise
    except LadonError as error:  # of another system
        logger.info("%s: Python codes, slower, the same bytes", error)
        return rans_python
