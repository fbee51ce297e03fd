"""`rans.c` behind ctypes: the streams of `ladon.codec.rans` for devices, without numba.

rans = NativeRans(folder / library_name())     # a `ladon.codec.streams.Rans`

A checkout has no step that builds it, and a person need not have a compiler:
`ladon.export.libraries` builds it for the device as far as there is one.
"""

from __future__ import annotations

import ctypes
import platform
from pathlib import Path
from typing import Any

import numpy as np

from ladon.codec.streams import LOOKUP_SIZE
from ladon.errors import LadonError

SOURCE = Path(__file__).with_name("rans.c")
_VERSION = 1
_ARRAY: Any = ctypes.c_void_p
_NUMBER: Any = ctypes.c_int64
_TABLES = [_ARRAY] * 3 + [_NUMBER] * 2


def library_name(machine: str | None = None) -> str:
    """Return the name of the library's file for a kind of processor, this one's by default."""
    return f"librans-{machine or platform.machine()}.so"


class NativeRans:
    """The compiled coder; threads may share it, and none waits for Python's lock meanwhile.

    Args:
        path: a library that was compiled of `rans.c`; its code runs in this process.

    Raises:
        LadonError: it is missing, for another kind of processor, or of another version.
    """

    def __init__(self, path: Path) -> None:
        try:
            library = ctypes.CDLL(str(path.resolve(strict=True)))
            version = library.ladon_rans_version
            self._encode, self._decode = library.ladon_rans_encode, library.ladon_rans_decode
            self._build_lookup = library.ladon_rans_build_lookup
        except (OSError, AttributeError) as error:
            raise LadonError(f"{path}: cannot be loaded: {' '.join(str(error).split())}") from error
        if version() != _VERSION:
            raise LadonError(f"{path}: of version {version()}, not {_VERSION}: build it anew")
        at = [_ARRAY, _ARRAY, _NUMBER, _NUMBER]  # symbols or words, rows, channels, count
        self._encode.argtypes = [*at, *_TABLES, _ARRAY, _NUMBER]
        self._encode.restype = _NUMBER
        self._decode.argtypes = [_ARRAY, _NUMBER, *at[1:], *_TABLES, _ARRAY, _ARRAY]
        self._decode.restype = ctypes.c_int32
        self._build_lookup.argtypes = [_ARRAY, _ARRAY, _NUMBER, _NUMBER, _ARRAY]
        self._build_lookup.restype = None

    def encode(
        self,
        symbols: np.ndarray,
        rows: np.ndarray | None,
        cdf: np.ndarray,
        cdf_length: np.ndarray,
        offset: np.ndarray,
        words: np.ndarray,
    ) -> int:
        """Encode as `ladon.codec.rans.encode` does; minus a reason where that would not look."""
        tables = _address(cdf), _address(cdf_length), _address(offset), *cdf.shape
        room = _address(words, np.uint32), len(words)
        return self._encode(_address(symbols), _rows(rows, symbols), *symbols.shape, *tables, *room)

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
        """Decode as `ladon.codec.rans.decode` does."""
        tables = _address(cdf), _address(cdf_length), _address(offset), *cdf.shape
        shape = _rows(rows, symbols), *symbols.shape
        where = _address(lookup), _address(symbols)
        return self._decode(_address(words, np.uint32), len(words), *shape, *tables, *where)

    def build_lookup(self, cdf: np.ndarray, cdf_length: np.ndarray, lookup: np.ndarray) -> None:
        """Fill the decoder's look-up as `ladon.codec.rans.build_lookup` does."""
        if lookup.shape != (len(cdf), LOOKUP_SIZE):
            raise ValueError(f"a look-up of shape {lookup.shape} for {len(cdf)} tables")
        self._build_lookup(_address(cdf), _address(cdf_length), *cdf.shape, _address(lookup))


def _rows(rows: np.ndarray | None, symbols: np.ndarray) -> int | None:
    if rows is None:
        return None
    if rows.shape != symbols.shape:
        raise ValueError(f"rows of shape {rows.shape} for symbols of shape {symbols.shape}")
    return _address(rows, np.uint8)


def _address(array: np.ndarray, dtype: type[np.generic] = np.int32) -> int:
    """Return where an array is; C sees neither its type nor its strides."""
    if array.dtype != dtype or not array.flags.c_contiguous:
        raise ValueError(f"{array.dtype} of strides {array.strides}: not {dtype.__name__} in a row")
    return array.ctypes.data
