"""The streams of `ladon.codec.rans` in Python and numpy, for devices without a built library.

A `ladon.codec.streams.Rans`. It takes about fifty times as long as the others: 20 ms for the 72,600
symbols of a 224x224 image.
"""

from __future__ import annotations

from bisect import bisect_right

import numpy as np

from ladon.codec.streams import (
    BAD_ESCAPE,
    BAD_ROW,
    LEFT_OVER,
    MAX_BYPASS_GROUPS,
    NO_ROOM,
    PRECISION,
    TRUNCATED,
    WORDS_PER_SYMBOL,
)

_LOWER_BOUND = 1 << 31
_WORD, _MASK = 0xFFFFFFFF, (1 << PRECISION) - 1
_X_MAX = 1 << 47
_BYPASS_MAX = 1 << 59


def encode(
    symbols: np.ndarray,
    rows: np.ndarray | None,
    cdf: np.ndarray,
    cdf_length: np.ndarray,
    offset: np.ndarray,
    words: np.ndarray,
) -> int:
    """Encode as `ladon.codec.rans.encode` does; minus a reason where that would not look."""
    if len(words) < WORDS_PER_SYMBOL * symbols.size + 2:
        return -NO_ROOM
    x, put = _LOWER_BOUND, []  # words, the last one first
    for c in range(len(symbols) - 1, -1, -1):
        row = np.full(symbols.shape[1], c) if rows is None else rows[c].astype(np.int64)
        if (row >= len(cdf)).any():
            return -BAD_ROW
        last = cdf_length[row].astype(np.int64) - 2
        value = symbols[c].astype(np.int64) - offset[row]
        escaped = (value < 0) | (value >= last)
        raw = np.where(value < 0, -2 * value - 1, 2 * (value - last)) & _WORD
        raw = np.where(escaped, raw, -1)
        value = np.where(escaped, last, value)
        start = cdf[row, value]
        frequency = cdf[row, value + 1] - start
        for s, f, r in zip(*(a[::-1].tolist() for a in (start, frequency, raw)), strict=True):
            if r >= 0:
                groups = (r.bit_length() + 3) // 4
                for bits in (*(r >> 4 * g & 15 for g in range(groups - 1, -1, -1)), groups):
                    if x >= _BYPASS_MAX:
                        put.append(x & _WORD)
                        x >>= 32
                    x = x << 4 | bits
            if x >= _X_MAX * f:
                put.append(x & _WORD)
                x >>= 32
            quotient, rest = divmod(x, f)
            x = (quotient << PRECISION) + rest + s
    put += (x >> 32, x & _WORD)
    first = len(words) - len(put)
    words[first:] = put[::-1]
    return first


def decode(
    words: np.ndarray,
    rows: np.ndarray | None,
    cdf: np.ndarray,
    cdf_length: np.ndarray,
    offset: np.ndarray,
    lookup: np.ndarray,
    symbols: np.ndarray,
) -> int:
    """Decode as `ladon.codec.rans.decode` does."""
    if len(words) < 2:
        return TRUNCATED
    if (len(symbols) if rows is None else int(rows.max(initial=0)) + 1) > len(cdf):
        return BAD_ROW
    stream = _Stream(words.tolist())
    tables = [row[:n].tolist() for row, n in zip(cdf, cdf_length.tolist(), strict=True)]
    lows = offset.tolist()
    for c in range(len(symbols)):
        numbers = [c] * symbols.shape[1] if rows is None else rows[c].tolist()
        values = []
        for number in numbers:
            table = tables[number]
            x = stream.x
            cumulative = x & _MASK
            s = bisect_right(table, cumulative) - 1
            x = (table[s + 1] - table[s]) * (x >> PRECISION) + cumulative - table[s]
            if not stream.go_on(x):
                return TRUNCATED
            last = len(table) - 2
            value = s
            if s == last:
                groups = stream.bits()
                if groups is None:
                    return TRUNCATED
                if groups > MAX_BYPASS_GROUPS:
                    return BAD_ESCAPE
                raw = 0
                for g in range(groups):
                    bits = stream.bits()
                    if bits is None:
                        return TRUNCATED
                    raw |= bits << 4 * g
                value = -(raw >> 1) - 1 if raw & 1 else (raw >> 1) + last
            values.append(value + lows[number])
        symbols[c] = np.array(values, np.int64).astype(np.int32)  # of 32 bits, as the others'
    return 0 if stream.is_at_its_end else LEFT_OVER


def build_lookup(cdf: np.ndarray, cdf_length: np.ndarray, lookup: np.ndarray) -> None:
    """Leave the look-up as it is: `decode` does without."""


class _Stream:
    """A decoder's state, and the words that are still to come.

    Args:
        words: all of them, two or more.
    """

    def __init__(self, words: list[int]) -> None:
        self.x = words[0] | words[1] << 32
        self._words, self._position = words, 2

    def go_on(self, x: int) -> bool:
        """Take a new state, and a word where it is small; return whether there was one."""
        if x < _LOWER_BOUND:
            if self._position >= len(self._words):
                return False
            x = x << 32 | self._words[self._position]
            self._position += 1
        self.x = x
        return True

    def bits(self) -> int | None:
        """Return the next group of four bits; None if the words end."""
        bits = self.x & 15
        return bits if self.go_on(self.x >> 4) else None

    @property
    def is_at_its_end(self) -> bool:
        """Whether the encoder began with this state, and no word is left."""
        return self.x == _LOWER_BOUND and self._position == len(self._words)
