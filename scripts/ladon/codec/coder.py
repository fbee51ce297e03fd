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
from typing import Any

import numpy as np
import torch
from compressai.entropy_models import EntropyBottleneck
from torch import Tensor

from ladon.codec.tables import FULL, as_tables
from ladon.errors import CheckpointError, PayloadError, UsageError
from ladon.process import usable_cores

_missing = ""
try:
    from ladon.codec import rans
except ImportError as error:  # numba does not come for every new Python at once
    rans, _missing = None, " ".join(str(error).split())

_REASONS = {
    1: "it ends too early",
    2: "it does not end where it should",
    3: "an escape is too long",
}
# rounding down in the coder's division hides at most this much of a symbol's information
_HIDDEN_BITS = 5e-5


def _on_host(tensor: Tensor) -> Tensor:
    """Copies a tensor to the host, waiting for it alone and not for what is queued after it."""
    if not tensor.is_cuda:
        return tensor
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    host.copy_(tensor, non_blocking=True)
    done = torch.cuda.Event(blocking=True)  # others need the core on which it would spin
    done.record(torch.cuda.current_stream(tensor.device))
    done.synchronize()
    return host


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, usable_cores() - 1), thread_name_prefix="ladon-codec")


def quantize(latent: Tensor, medians: Tensor) -> Tensor:
    """Rounds a latent [N, C, h, w] around its medians [1, C, 1, 1]."""
    return torch.round(latent - medians) + medians


class LatentCoder:
    """Codes latents with the tables of an entropy bottleneck, bit for bit as CompressAI does.

    Args:
        entropy_bottleneck: updated; its tables and medians are read once.
        parallel: code images on a thread pool; else one after the other.

    Raises:
        CheckpointError: if the tables are none that rANS can code with, or for other channels.
        UsageError: if numba, which the coder needs, cannot be imported.
    """

    def __init__(self, entropy_bottleneck: EntropyBottleneck, *, parallel: bool = True) -> None:
        if rans is None:  # CompressAI's own coder writes beside its buffers for odd payloads
            raise UsageError(
                f"entropy coding needs numba, which cannot be imported ({_missing}); install the "
                "version that the Pipfile pins: pip install numba==0.68.1"
            )
        self._parallel = parallel
        medians = entropy_bottleneck._get_medians().detach()
        self._cdf, self._length, self._offset = as_tables(
            entropy_bottleneck._quantized_cdf,
            entropy_bottleneck._cdf_length,
            entropy_bottleneck._offset,
            medians.numel(),
        )
        if not bool(medians.isfinite().all()):
            raise CheckpointError("the bottleneck's medians (quantiles) are not finite")
        self._medians = medians.reshape(1, -1, 1, 1)
        self._lookup = np.empty((len(self._cdf), FULL >> rans.LOOKUP_SHIFT), np.int32)
        rans.build_lookup(self._cdf, self._length, self._lookup)
        self._host_medians = _as_array(self._medians, np.float32).reshape(-1)
        self._scratch = _Scratch()
        for order in "CF":  # numba compiles now (or reads its cache): no batch's timing has it
            latent = np.zeros((len(self._cdf), 2), np.float32, order=order)
            self._decode_one((self._encode_one(latent), latent))

    def quantize(self, latent: Tensor) -> Tensor:
        """Returns the latent as the decoder will see it: rounded around the medians."""
        self._check(latent)
        return quantize(latent, self._medians)

    def encode(self, latent: Tensor) -> list[bytes]:
        """Encodes a latent [N, C, h, w] float32 into one payload per image.

        Raises:
            UsageError: for a latent of another shape or type than the tables are for.
        """
        self._check(latent)
        # everything per image happens in its thread: torch's own threads spin for a while after an
        # operation, and would take the cores from ours
        return self._map(self._encode_one, _on_host(latent).flatten(2).numpy())

    def decode(self, payloads: Sequence[bytes], shape: Sequence[int]) -> Tensor:
        """Decodes payloads into a latent [N, C, h, w] float32 on the bottleneck's device.

        Args:
            payloads: one per image, from wherever.
            shape: (h, w) of the latent.

        Raises:
            PayloadError: if one is truncated, extended or otherwise damaged.
        """
        height, width = (int(side) for side in shape)
        self._check_size(payloads, height, width)
        size = (len(payloads), len(self._cdf), height, width)
        device = self._medians.device
        if device.type == "cuda":
            # pinned: decoded to where the GPU copies it from, while nothing here waits; and in the
            # order of the symbols, which the GPU changes faster
            latent = torch.empty(size, pin_memory=True)
        else:
            latent = torch.empty(size, memory_format=torch.channels_last)
        arrays = latent.flatten(2).numpy()
        self._map(self._decode_one, list(zip(payloads, arrays, strict=True)))
        return latent.to(device, non_blocking=True)

    def _check(self, latent: Tensor) -> None:
        """Compares a latent with the tables, before a loop that does not look."""
        if latent.dim() != 4 or latent.shape[1] != len(self._cdf) or 0 in latent.shape[2:]:
            raise UsageError(
                f"a latent of shape {tuple(latent.shape)} for a coder of {len(self._cdf)} channels"
            )
        if latent.dtype != torch.float32:
            raise UsageError(f"a latent of {latent.dtype}: the coder takes float32")

    def _check_size(self, payloads: Sequence[bytes], height: int, width: int) -> None:
        """Refuses a shape of which the payloads cannot be, before there is room for its latent."""
        if height < 1 or width < 1:
            raise PayloadError(f"no latent is of {height}x{width}")
        for payload in payloads:
            if height * width * self._least_bits > 8 * len(payload) + 64:
                raise PayloadError(
                    f"payload of {len(payload)} bytes is too short for a latent of {height}x{width}"
                )

    @cached_property
    def _least_bits(self) -> float:
        """Bits that all channels take at one place at the very least."""
        likeliest = [np.diff(r[:n]).max() for r, n in zip(self._cdf, self._length, strict=True)]
        return float(np.maximum(16 - np.log2(likeliest) - _HIDDEN_BITS, 0).sum())

    def estimate(self, latent: Tensor) -> list[int]:
        """Returns each image's payload size in bytes from the tables, without coding.

        The information content of its symbols (an escape's groups count four bits each), plus the
        coder's initial state, rounded up to whole words: within 0.1 % + 16 bytes of the truth.

        Args:
            latent: [N, C, h, w] float32.
        """
        self._check(latent)
        symbols = torch.round(latent - self._medians).flatten(2).to(torch.int64)
        offset, last, information = self._device_tables
        value = symbols - offset
        escaped = (value < 0) | (value >= last)
        raw = torch.where(value < 0, -2 * value - 1, 2 * (value - last)).clamp(min=0)
        groups = torch.zeros_like(raw)
        for group in range(8):
            groups += (raw >> (4 * group)) > 0
        index = torch.where(escaped, last, value)
        bits = information.expand(len(symbols), -1, -1).gather(2, index)
        bits += torch.where(escaped, 4.0 * (groups + 1), 0.0)
        totals = bits.sum(dim=(1, 2)).tolist()
        return [4 * math.ceil((total + 31) / 32) for total in totals]

    @cached_property
    def _device_tables(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of each channel offset and escape symbol [1, C, 1], and each symbol's bits [1, C, W].

        Copied once: at every batch, the copies would make the host wait for the device. Bits are
        0 beyond a row's end.
        """
        frequency = np.diff(self._cdf, axis=1).astype(np.float64)
        inside = np.arange(frequency.shape[1])[None] < self._length[:, None] - 1
        safe = np.where(inside & (frequency > 0), frequency, FULL)
        device = self._medians.device
        offset, length = (
            torch.from_numpy(table).to(device, torch.int64)[None, :, None]
            for table in (self._offset, self._length)
        )
        return offset, length - 2, torch.from_numpy(16 - np.log2(safe)).to(device)[None]

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

    def _encode_one(self, latent: np.ndarray) -> bytes:
        symbols, words = self._scratch.symbols(latent.shape), self._scratch.words(latent.size)
        rans.quantize(latent, self._host_medians, symbols)
        first = rans.encode(symbols, self._cdf, self._length, self._offset, words)
        return words[first:].astype("<u4", copy=False).tobytes()

    def _decode_one(self, item: tuple[bytes, np.ndarray]) -> None:
        payload, latent = item
        if len(payload) % 4:
            raise PayloadError(f"payload of {len(payload)} bytes: not a whole number of words")
        symbols = self._scratch.symbols(latent.shape)
        words = np.frombuffer(payload, "<u4").astype(np.uint32, copy=False)
        status = rans.decode(words, self._cdf, self._length, self._offset, self._lookup, symbols)
        if status:
            raise PayloadError(f"payload of {len(payload)} bytes is damaged: {_REASONS[status]}")
        rans.dequantize(symbols, self._host_medians, latent)


class _Scratch(threading.local):
    """A thread's buffers, kept from image to image: fresh memory costs page faults."""

    _symbols = np.empty((0, 0), np.int32)
    _words = np.empty(0, np.uint32)

    def symbols(self, shape: tuple[int, ...]) -> np.ndarray:
        """Returns an int32 array of a shape."""
        if self._symbols.shape != shape:
            self._symbols = np.empty(shape, np.int32)
        return self._symbols

    def words(self, count: int) -> np.ndarray:
        """Returns uint32 room for the payload of so many symbols."""
        size = rans.WORDS_PER_SYMBOL * count + 4
        if len(self._words) != size:
            self._words = np.empty(size, np.uint32)
        return self._words


def _as_array(tensor: Tensor, dtype: type[np.generic]) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().cpu().numpy().astype(dtype))
