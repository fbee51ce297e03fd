"""Entropy coding of latents: one payload per image, images in parallel.

coder = LatentCoder(entropy_bottleneck)
payloads = coder.encode(latent)               # list of N bytes
latent_hat = coder.decode(payloads, (h, w))   # [N, C, h, w]
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, cached_property
from typing import Any, Literal

import numpy as np
import torch
from compressai.entropy_models import EntropyBottleneck
from torch import Tensor

from ladon.codec.streams import FULL, LOOKUP_SIZE, REASONS, WORDS_PER_SYMBOL
from ladon.codec.tables import as_tables
from ladon.errors import CheckpointError, PayloadError, UsageError
from ladon.process import usable_cores

_missing = ""
try:
    from ladon.codec import rans
except ImportError as error:  # numba does not come for every new Python at once
    rans = None  # type: ignore[assignment]
    _missing = " ".join(str(error).split())

ORDERS: tuple[Literal["C", "F"], ...] = ("C", "F")  # of arrays in memory
# rounding down in the coder's division hides at most this much of a symbol's information
_HIDDEN_BITS = 5e-5


def on_host(tensor: Tensor) -> Tensor:
    """Copy a tensor to the host, waiting for it alone and not for what is queued after it."""
    if not tensor.is_cuda:
        return tensor
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    host.copy_(tensor, non_blocking=True)
    done = torch.cuda.Event(blocking=True)  # others need the core on which it would spin
    done.record(torch.cuda.current_stream(tensor.device))
    done.synchronize()
    return host


def check_type(latent: Tensor) -> None:
    """Raise UsageError for a latent that is not of float32."""
    if latent.dtype != torch.float32:
        raise UsageError(f"a latent of {latent.dtype}: the coder takes float32")


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, usable_cores() - 1), thread_name_prefix="ladon-codec")


def quantize(latent: Tensor, medians: Tensor, steps: Tensor | None = None) -> Tensor:
    """Round a latent [N, C, h, w] around its medians [1, C, 1, 1].

    Args:
        latent: float32.
        medians: of its channels.
        steps: to whose multiples it is rounded, [1 or N, C, 1, 1]; None: to whole numbers.
    """
    if steps is None:
        return torch.round(latent - medians) + medians
    return torch.round((latent - medians) / steps) * steps + medians


class TableCoder:
    """Symbols coded with checked tables: what all coders share.

    Args:
        tables: cumulative frequencies [R, W], entries used of each row [R], value of each row's
            first symbol [R]; int32.
        device: where latents are.
        parallel: code images on a thread pool; else one after the other.

    Raises:
        UsageError: if numba, which the coder needs, cannot be imported.
    """

    def __init__(
        self,
        tables: tuple[np.ndarray, np.ndarray, np.ndarray],
        device: torch.device,
        *,
        parallel: bool,
    ) -> None:
        if rans is None:  # CompressAI's own coder writes beside its buffers for odd payloads
            raise UsageError(
                f"entropy coding needs numba, which cannot be imported ({_missing}); install the "
                "version that the Pipfile pins: pip install numba==0.68.1"
            )
        self._parallel, self._device = parallel, device
        self._cdf, self._length, self._offset = tables
        self._lookup = np.empty((len(self._cdf), LOOKUP_SIZE), np.int32)
        rans.build_lookup(self._cdf, self._length, self._lookup)
        self._scratch = _Scratch()

    def _empty(self, size: tuple[int, ...]) -> Tensor:
        """Room for a latent [N, C, h, w] that is decoded on the host."""
        if self._device.type == "cuda":
            # pinned: decoded to where the GPU copies it from, while nothing here waits; and in the
            # order of the symbols, which the GPU changes faster
            return torch.empty(size, pin_memory=True)
        return torch.empty(size, memory_format=torch.channels_last)

    def _refuse_too_short(self, payload: bytes, least_bits: float, shape: Sequence[int]) -> None:
        """Refuse a payload that cannot hold a latent [..., h, w], before anything is decoded."""
        if least_bits > 8 * len(payload) + 64:
            height, width = shape[-2:]
            raise PayloadError(
                f"payload of {len(payload)} bytes is too short for a latent of {height}x{width}"
            )

    @cached_property
    def _least_bits(self) -> np.ndarray:
        """Bits that a symbol takes at the very least, by row [R]."""
        likeliest = [np.diff(r[:n]).max() for r, n in zip(self._cdf, self._length, strict=True)]
        return np.maximum(16 - np.log2(likeliest) - _HIDDEN_BITS, 0)

    def _information(self, symbols: Tensor, rows: Tensor) -> list[int]:
        """Return each image's estimated payload size in bytes.

        The information content of its symbols (an escape's groups count four bits each), plus the
        coder's initial state, rounded up to whole words: within 0.1 % + 16 bytes of the truth.

        Args:
            symbols: [N, C, L] int64.
            rows: each symbol's row, int64, to be broadcast to them.
        """
        offsets, lasts, information = self._device_tables
        last = lasts[rows]
        value = symbols - offsets[rows]
        escaped = (value < 0) | (value >= last)
        raw = torch.where(value < 0, -2 * value - 1, 2 * (value - last)).clamp(min=0)
        groups = torch.zeros_like(raw)
        for group in range(8):
            groups += (raw >> (4 * group)) > 0
        index = torch.where(escaped, last, value)
        bits = information.take(index + rows * information.shape[1])
        bits += torch.where(escaped, 4.0 * (groups + 1), 0.0)
        totals = bits.sum(dim=(1, 2)).tolist()
        return [4 * math.ceil((total + 31) / 32) for total in totals]

    @cached_property
    def _device_tables(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of each row offset and escape symbol [R], and each symbol's bits [R, W].

        Copied once: at every batch, the copies would make the host wait for the device. Bits are
        0 beyond a row's end.
        """
        frequency = np.diff(self._cdf, axis=1).astype(np.float64)
        inside = np.arange(frequency.shape[1])[None] < self._length[:, None] - 1
        safe = np.where(inside & (frequency > 0), frequency, FULL)
        offset, length = (
            torch.from_numpy(table).to(self._device, torch.int64)
            for table in (self._offset, self._length)
        )
        return offset, length - 2, torch.from_numpy(16 - np.log2(safe)).to(self._device)

    def _map(self, function, items) -> list:
        shares = min(usable_cores(), len(items)) if self._parallel else 1
        if shares <= 1:
            return [function(item) for item in items]
        results: list[Any] = [None] * len(items)

        def work(share: int) -> None:
            results[share::shares] = [function(item) for item in items[share::shares]]

        # this thread takes a share too: were it to sleep, the system would wake the others on its
        # own CPU, and for the few milliseconds that it takes not move them
        others = [_pool().submit(work, share) for share in range(1, shares)]
        try:
            work(0)
        finally:
            for other in others:
                other.exception()  # what they write to must not outlive this call
        for other in others:
            other.result()
        return results

    def _encode_image(
        self, latent: np.ndarray, grid: tuple[np.ndarray, np.ndarray], rows: np.ndarray | None
    ) -> bytes:
        """Round a latent [C, L] float32 to its grid, and code it.

        Args:
            latent: in any order.
            grid: its channels' centres and steps, [C] float32 each.
            rows: each symbol's row [C, L] uint8; None where row c is channel c's.
        """
        symbols, words = self._scratch.symbols(latent.shape), self._scratch.words(latent.size)
        rans.quantize(latent, *grid, symbols)
        first = rans.encode(symbols, rows, self._cdf, self._length, self._offset, words)
        return words[first:].astype("<u4", copy=False).tobytes()

    def _decode_image(
        self,
        payload: bytes,
        latent: np.ndarray,
        grid: tuple[np.ndarray, np.ndarray],
        rows: np.ndarray | None,
    ) -> None:
        """Fill a latent with what `_encode_image` coded."""
        if len(payload) % 4:
            raise PayloadError(f"payload of {len(payload)} bytes: not a whole number of words")
        symbols = self._scratch.symbols(latent.shape)
        words = np.frombuffer(payload, "<u4").astype(np.uint32, copy=False)
        tables = self._cdf, self._length, self._offset, self._lookup
        status = rans.decode(words, rows, *tables, symbols)
        if status:
            raise PayloadError(f"payload of {len(payload)} bytes is damaged: {REASONS[status]}")
        rans.dequantize(symbols, *grid, latent)


class LatentCoder(TableCoder):
    """Codes latents with the tables of an entropy bottleneck, bit for bit as CompressAI does.

    Args:
        entropy_bottleneck: updated; its tables and medians are read once.
        level: whose tables and steps, of an entropy bottleneck that has several levels of rate.
        parallel: code images on a thread pool; else one after the other.

    Raises:
        CheckpointError: if the tables are none that rANS can code with, or for other channels.
        UsageError: if numba, which the coder needs, cannot be imported.
    """

    def __init__(
        self,
        entropy_bottleneck: EntropyBottleneck,
        *,
        level: int | None = None,
        parallel: bool = True,
    ) -> None:
        medians = entropy_bottleneck._get_medians().detach()
        names = "_quantized_cdf", "_cdf_length", "_offset"
        tables = [getattr(entropy_bottleneck, name) for name in names]
        steps = torch.ones(medians.numel(), device=medians.device)
        if level is not None:
            first = level * medians.numel()
            tables = [table[first : first + medians.numel()] for table in tables]
            steps = entropy_bottleneck._steps[level]
        if not bool(medians.isfinite().all()):
            raise CheckpointError("the bottleneck's medians (quantiles) are not finite")
        arrays = as_tables(tables[0], tables[1], tables[2], medians.numel())
        super().__init__(arrays, medians.device, parallel=parallel)
        self._medians = medians.reshape(1, -1, 1, 1)
        self._steps = None if level is None else steps.reshape(1, -1, 1, 1)
        self._grid = (
            _as_array(medians.reshape(-1), np.float32),
            _as_array(steps.reshape(-1), np.float32),
        )
        for order in ORDERS:  # numba compiles now (or reads its cache): no batch's timing has it
            latent = np.zeros((len(self._cdf), 2), np.float32, order=order)
            self._decode_one((self._encode_one(latent), latent))

    def quantize(self, latent: Tensor) -> Tensor:
        """Return the latent as the decoder will see it: rounded around the medians."""
        self._check(latent)
        return quantize(latent, self._medians, self._steps)

    def encode(self, latent: Tensor) -> list[bytes]:
        """Encode a latent [N, C, h, w] float32 into one payload per image.

        Raises:
            UsageError: for a latent of another shape or type than the tables are for.
        """
        self._check(latent)
        # everything per image happens in its thread: torch's own threads spin for a while after an
        # operation, and would take the cores from ours
        return self._map(self._encode_one, on_host(latent).flatten(2).numpy())

    def decode(self, payloads: Sequence[bytes], shape: Sequence[int]) -> Tensor:
        """Decode payloads into a latent [N, C, h, w] float32 on the bottleneck's device.

        Args:
            payloads: one per image, from wherever.
            shape: (h, w) of the latent.

        Raises:
            PayloadError: if one is truncated, extended or otherwise damaged.
        """
        height, width = (int(side) for side in shape)
        if height < 1 or width < 1:
            raise PayloadError(f"no latent is of {height}x{width}")
        least_bits = height * width * float(self._least_bits.sum())
        for payload in payloads:
            self._refuse_too_short(payload, least_bits, (height, width))
        latent = self._empty((len(payloads), len(self._cdf), height, width))
        arrays = latent.flatten(2).numpy()
        self._map(self._decode_one, list(zip(payloads, arrays, strict=True)))
        return latent.to(self._device, non_blocking=True)

    def estimate(self, latent: Tensor) -> list[int]:
        """Return each image's payload size in bytes from the tables, without coding.

        Args:
            latent: [N, C, h, w] float32.
        """
        self._check(latent)
        residual = latent - self._medians
        scaled = residual if self._steps is None else residual / self._steps
        return self._information(scaled.round().flatten(2).to(torch.int64), self._channels)

    @cached_property
    def _channels(self) -> Tensor:
        """Each channel's row, [1, C, 1]."""
        return torch.arange(len(self._cdf), device=self._device)[None, :, None]

    def _check(self, latent: Tensor) -> None:
        """Compare a latent with the tables, before a loop that does not look."""
        if latent.dim() != 4 or latent.shape[1] != len(self._cdf) or 0 in latent.shape[2:]:
            raise UsageError(
                f"a latent of shape {tuple(latent.shape)} for a coder of {len(self._cdf)} channels"
            )
        check_type(latent)

    def _encode_one(self, latent: np.ndarray) -> bytes:
        return self._encode_image(latent, self._grid, None)

    def _decode_one(self, item: tuple[bytes, np.ndarray]) -> None:
        self._decode_image(*item, self._grid, None)


class _Scratch(threading.local):
    """A thread's buffers, kept from image to image: fresh memory costs page faults."""

    _symbols = np.empty((0, 0), np.int32)
    _words = np.empty(0, np.uint32)

    def symbols(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return an int32 array of a shape."""
        if self._symbols.shape != shape:
            self._symbols = np.empty(shape, np.int32)
        return self._symbols

    def words(self, count: int) -> np.ndarray:
        """Return uint32 room for the payload of so many symbols."""
        size = WORDS_PER_SYMBOL * count + 4
        if len(self._words) != size:
            self._words = np.empty(size, np.uint32)
        return self._words


def _as_array(tensor: Tensor, dtype: type[np.generic]) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().cpu().numpy().astype(dtype))
