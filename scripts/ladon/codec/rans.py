"""rANS kernels, bit-identical to CompressAI's streams.

The coder is the 64-bit rANS of F. Giesen (state in [2^31, 2^63), 32-bit words, 16-bit
probabilities); a symbol outside its table is coded as the table's last entry followed by 4-bit
groups (Ballé et al., "Variational image compression with a scale hyperprior", ICLR 2018, as
CompressAI implements it). Symbols are coded channel by channel. Each channel has a table of its
own, so that no index tensor is needed, or each symbol names its table (`rows`): numba compiles a
kernel of its own for each way.

The decoder trusts nothing: it never reads past the payload, every loop is bounded by the number
of symbols, and it ends only on the state that the encoder began with.
"""

from __future__ import annotations

import numba
import numpy as np

PRECISION = 16
LOWER_BOUND = np.uint64(1 << 31)
BYPASS_BITS = np.uint64(4)
# an escaped value is a 32-bit number: at most eight groups of four bits
MAX_BYPASS_GROUPS = 8
# worst case of one symbol: 16 bits, a group that counts, and eight groups: less than two words
WORDS_PER_SYMBOL = 2
# the decoder's look-up: symbol at the start of each run of 64 cumulative frequencies
LOOKUP_SHIFT = 6

TRUNCATED, LEFT_OVER, BAD_ESCAPE = 1, 2, 3

_WORD = np.uint64(0xFFFFFFFF)
_MASK = np.uint64((1 << PRECISION) - 1)
_X_MAX = np.uint64(((1 << 31) >> PRECISION) << 32)
_SHIFT = np.uint64(PRECISION)
_HALF = np.uint64(32)
_BYPASS_MAX = np.uint64(((1 << 31) >> 16) << 32) * np.uint64(1 << (16 - 4))
_BYPASS_MASK = np.uint64(15)


@numba.njit(nogil=True, cache=True, boundscheck=False)
def encode(symbols, rows, cdf, cdf_length, offset, words):  # pragma: no cover (compiled)
    """Encode one image's symbols from the last to the first.

    Args:
        symbols: [C, N] int32.
        rows: None where row c is channel c's, or [C, N] uint8, the row of each symbol.
        cdf: [R, W] int32 cumulative frequencies.
        cdf_length: [R] int32, entries used of each row.
        offset: [R] int32, value of each row's first symbol.
        words: uint32 buffer, filled from its end; at least 2 C N + 2 long.

    Returns:
        Index of the first word of the payload.
    """
    position = len(words)
    x = LOWER_BOUND
    channels, count = symbols.shape
    for c in range(channels - 1, -1, -1):
        row = c
        if rows is None:
            last = cdf_length[row] - 2
            low = offset[row]
        for n in range(count - 1, -1, -1):
            if rows is not None:
                row = np.int64(rows[c, n])  # type: ignore[assignment]
                last = cdf_length[row] - 2
                low = offset[row]
            value = np.int64(symbols[c, n]) - low
            if value < 0 or value >= last:
                raw = np.uint64(-2 * value - 1) if value < 0 else np.uint64(2 * (value - last))
                raw &= _WORD
                value = last
                groups = 0
                while groups < MAX_BYPASS_GROUPS and (raw >> np.uint64(4 * groups)) != 0:
                    groups += 1
                for g in range(groups - 1, -2, -1):
                    bits = (raw >> np.uint64(4 * g)) & _BYPASS_MASK if g >= 0 else np.uint64(groups)
                    if x >= _BYPASS_MAX:
                        position -= 1
                        words[position] = np.uint32(x & _WORD)
                        x >>= _HALF
                    x = (x << BYPASS_BITS) | bits
            start = np.uint64(cdf[row, value])
            frequency = np.uint64(cdf[row, value + 1]) - start
            if x >= _X_MAX * frequency:
                position -= 1
                words[position] = np.uint32(x & _WORD)
                x >>= _HALF
            quotient = x // frequency
            x = (quotient << _SHIFT) + (x - quotient * frequency) + start
    position -= 2
    words[position] = np.uint32(x & _WORD)
    words[position + 1] = np.uint32(x >> _HALF)
    return position


@numba.njit(nogil=True, cache=True, boundscheck=False)
def decode(words, rows, cdf, cdf_length, offset, lookup, symbols):  # pragma: no cover (compiled)
    """Decode one image's symbols.

    Args:
        words: uint32 words of the payload.
        rows: None where row c is channel c's, or [C, N] uint8, the row of each symbol.
        cdf: [R, W] int32 cumulative frequencies.
        cdf_length: [R] int32, entries used of each row.
        offset: [R] int32, value of each row's first symbol.
        lookup: [R, 1024] int32 from `build_lookup`.
        symbols: [C, N] int32, filled.

    Returns:
        0, or TRUNCATED, LEFT_OVER or BAD_ESCAPE.
    """
    total = len(words)
    if total < 2:
        return TRUNCATED
    x = np.uint64(words[0]) | (np.uint64(words[1]) << _HALF)
    position = 2
    channels, count = symbols.shape
    for c in range(channels):
        row = c
        if rows is None:
            last = cdf_length[row] - 2
            low = np.int64(offset[row])
        for n in range(count):
            if rows is not None:
                row = np.int64(rows[c, n])  # type: ignore[assignment]
                last = cdf_length[row] - 2
                low = np.int64(offset[row])
            cumulative = np.int32(x & _MASK)
            s = lookup[row, cumulative >> LOOKUP_SHIFT]
            while cdf[row, s + 1] <= cumulative:
                s += 1
            start = np.uint64(cdf[row, s])
            frequency = np.uint64(cdf[row, s + 1]) - start
            x = frequency * (x >> _SHIFT) + (x & _MASK) - start
            if x < LOWER_BOUND:
                if position >= total:
                    return TRUNCATED
                x = (x << _HALF) | np.uint64(words[position])
                position += 1
            value = np.int64(s)
            if s == last:
                groups = -1
                raw = np.uint64(0)
                g = -1
                while g < groups or g == -1:
                    bits = x & _BYPASS_MASK
                    x >>= BYPASS_BITS
                    if x < LOWER_BOUND:
                        if position >= total:
                            return TRUNCATED
                        x = (x << _HALF) | np.uint64(words[position])
                        position += 1
                    if g == -1:
                        groups = np.int64(bits)  # type: ignore[assignment]
                        if groups > MAX_BYPASS_GROUPS:
                            return BAD_ESCAPE
                    else:
                        raw |= bits << np.uint64(4 * g)
                    g += 1
                half = np.int64(raw >> np.uint64(1))
                value = -half - 1 if raw & np.uint64(1) else half + last
            symbols[c, n] = np.int32(value + low)
    if x != LOWER_BOUND or position != total:
        return LEFT_OVER
    return 0


@numba.njit(nogil=True, cache=True, boundscheck=False)
def build_lookup(cdf, cdf_length, lookup):  # pragma: no cover (compiled)
    """Fill the decoder's look-up: for each row, the symbol at each multiple of 64."""
    for c in range(cdf.shape[0]):
        s = 0
        for i in range(lookup.shape[1]):
            while s < cdf_length[c] - 2 and cdf[c, s + 1] <= (i << LOOKUP_SHIFT):
                s += 1
            lookup[c, i] = s


@numba.njit(inline="always")
def _symbol(value):  # pragma: no cover (compiled)
    rounded = np.rint(value)
    fits = abs(rounded) < np.float32(2147483648.0)
    return np.int32(rounded) if fits else np.int32(-2147483648)


@numba.njit(nogil=True, cache=True, boundscheck=False)
def quantize(latent, medians, symbols):  # pragma: no cover (compiled)
    """Round one image's latent around its medians, half to even, as torch.round does.

    Args:
        latent: [C, N] float32, in any order.
        medians: [C] float32.
        symbols: [C, N] int32, filled; what is beyond it becomes -2^31, as torch's cast on x86.
    """
    channels, count = latent.shape
    if latent.strides[0] < latent.strides[1]:  # channels_last: read it in one stream
        for n in range(count):
            for c in range(channels):
                symbols[c, n] = _symbol(latent[c, n] - medians[c])
    else:
        for c in range(channels):
            for n in range(count):
                symbols[c, n] = _symbol(latent[c, n] - medians[c])


@numba.njit(nogil=True, cache=True, boundscheck=False)
def dequantize(symbols, medians, latent):  # pragma: no cover (compiled)
    """Fill one image's latent [C, N] float32, in any order, from symbols [C, N] int32."""
    for n in range(latent.shape[1]):
        for c in range(latent.shape[0]):
            latent[c, n] = np.float32(symbols[c, n]) + medians[c]
