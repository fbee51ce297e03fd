"""rANS kernels, bit-identical to CompressAI's streams: this docstring specifies them.

The coder is the 64-bit rANS of F. Giesen (J. Duda, "Asymmetric numeral systems", arXiv:1311.2540)
with 16-bit probabilities: a state x in [2^31, 2^63), and words of 32 bits, which are sent in
little-endian order. A table is a row of cumulative frequencies, 0 = c_0 < c_1 < … < c_n = 2^16, and
the value v of its first symbol: symbol i stands for v + i, and the last one, i = n - 1, announces a
value outside of the table. Each channel has a table of its own, so that no index tensor is needed,
or each symbol names its table (`rows`): numba compiles a kernel of its own for each way.

An encoder begins with x = 2^31 and takes the symbols channel by channel, from the last to the
first. Symbol i, of frequency f = c_(i+1) - c_i, makes

    if x >= 2^47 f:  put the lower 32 bits of x before the words there are; x = x >> 32
    x = (x // f) 2^16 + x mod f + c_i

A value u = value - v outside of the table (Ballé et al., "Variational image compression with a
scale hyperprior", ICLR 2018, as CompressAI implements it) is the number -2 u - 1 where u < 0, else
2 (u - n + 1), of 32 bits: it is cut into groups of four bits, the lowest first, of which those
above the highest that is not 0 are left out. The decoder reads the symbol n - 1, the number of
groups, and the groups; the encoder puts them in the opposite order, each by

    if x >= 2^59:  put the lower 32 bits of x, as above; x = x >> 32
    x = 16 x + group

In the end the upper half of x is put before the words, and the lower half before that. A decoder
undoes all this from the first word on, and takes the next word in wherever x < 2^31.

The decoder trusts nothing: it never reads past the payload, every loop is bounded by the number
of symbols, and it ends only on the state that the encoder began with, with no word left.
"""

from __future__ import annotations

import numba
import numpy as np

from ladon.codec.streams import (
    BAD_ESCAPE,
    LEFT_OVER,
    LOOKUP_SHIFT,
    MAX_BYPASS_GROUPS,
    PRECISION,
    TRUNCATED,
)

LOWER_BOUND = np.uint64(1 << 31)
BYPASS_BITS = np.uint64(4)

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
def quantize(latent, medians, steps, symbols):  # pragma: no cover (compiled)
    """Round one image's latent to steps around its medians, half to even, as torch.round does.

    Args:
        latent: [C, N] float32, in any order.
        medians: [C] float32.
        steps: [C] float32; 1 changes no bit.
        symbols: [C, N] int32, filled; what is beyond it becomes -2^31, as torch's cast on x86.
    """
    channels, count = latent.shape
    if latent.strides[0] < latent.strides[1]:  # channels_last: read it in one stream
        for n in range(count):
            for c in range(channels):
                symbols[c, n] = _symbol((latent[c, n] - medians[c]) / steps[c])
    else:
        for c in range(channels):
            for n in range(count):
                symbols[c, n] = _symbol((latent[c, n] - medians[c]) / steps[c])


@numba.njit(nogil=True, cache=True, boundscheck=False)
def dequantize(symbols, medians, steps, latent):  # pragma: no cover (compiled)
    """Fill one image's latent [C, N] float32, in any order, from symbols [C, N] int32."""
    for n in range(latent.shape[1]):
        for c in range(latent.shape[0]):
            latent[c, n] = np.float32(symbols[c, n]) * steps[c] + medians[c]
