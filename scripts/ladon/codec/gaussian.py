"""Entropy coding of latents whose symbols are Gaussian, each of a scale that is known for it.

coder = GaussianCoder(gaussian_conditional)
rows = coder.rows(scales)                      # each symbol's table, by its predicted scale
payloads = coder.encode(latent, rows, means)   # list of N bytes
latent_hat = coder.decode(payloads, rows, means)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from compressai.entropy_models import GaussianConditional
from torch import Tensor

from ladon.codec.coder import ORDERS, TableCoder, check_type, on_host
from ladon.codec.tables import as_scale_tables
from ladon.errors import UsageError


class GaussianCoder(TableCoder):
    """Codes latents with the tables of a Gaussian conditional, bit for bit as CompressAI does.

    Both sides must predict equal scales and means: a symbol of another table, and all before it,
    decode to something else.

    Args:
        gaussian_conditional: updated; its tables are read once.
        parallel: code images on a thread pool; else one after the other.

    Raises:
        CheckpointError: if the tables are none that rANS can code with.
        UsageError: if numba, which the coder needs, cannot be imported.
    """

    def __init__(self, gaussian_conditional: GaussianConditional, *, parallel: bool = True) -> None:
        scales = gaussian_conditional.scale_table.detach()
        tables = as_scale_tables(
            gaussian_conditional._quantized_cdf,
            gaussian_conditional._cdf_length,
            gaussian_conditional._offset,
            scales,
        )
        super().__init__(tables, scales.device, parallel=parallel)
        self._limits = scales[:-1].contiguous()
        self._least_scale = gaussian_conditional.lower_bound_scale.bound.detach()
        rows = np.zeros((1, 2), np.uint8)
        for order in ORDERS:  # numba compiles now (or reads its cache): no batch's timing has it
            latent = np.zeros((1, 2), np.float32, order=order)
            self._decode_one((self._encode_one((latent, rows)), latent, rows))

    def rows(self, scales: Tensor) -> Tensor:
        """Return each symbol's table: the first whose scale is not smaller, else the last.

        Args:
            scales: [N, C, h, w] float32, predicted.

        Returns:
            [N, C, h, w] uint8, contiguous.
        """
        scales = torch.maximum(scales.detach(), self._least_scale).contiguous()
        return torch.bucketize(scales, self._limits, out_int32=True).to(torch.uint8)

    @staticmethod
    def quantize(latent: Tensor, means: Tensor | None = None) -> Tensor:
        """Return the latent as the decoder will see it: rounded around the means, or around 0."""
        return torch.round(latent) if means is None else torch.round(latent - means) + means

    def encode(self, latent: Tensor, rows: Tensor, means: Tensor | None = None) -> list[bytes]:
        """Encode a latent into one payload per image.

        Args:
            latent: [N, C, h, w] float32.
            rows: from `rows`, of the latent's shape.
            means: of the latent's shape, predicted.

        Raises:
            UsageError: if their shapes differ, or for another type.
        """
        self._check(latent, rows, means)
        residual = on_host(latent if means is None else latent - means).flatten(2).numpy()
        pairs = zip(residual, self._on_host_flat(rows), strict=True)
        return self._map(self._encode_one, list(pairs))

    def decode(
        self, payloads: Sequence[bytes], rows: Tensor, means: Tensor | None = None
    ) -> Tensor:
        """Decode payloads into a latent [N, C, h, w] float32 on the device of the tables.

        Args:
            payloads: one per image, from wherever.
            rows: from `rows`, by the scales that the encoder predicted.
            means: as the encoder predicted them.

        Raises:
            PayloadError: if one is truncated, extended or otherwise damaged.
            UsageError: if there are not as many payloads as images in `rows`.
        """
        if len(payloads) != len(rows):
            raise UsageError(f"{len(payloads)} payloads for the scales of {len(rows)} images")
        flat = self._on_host_flat(rows)
        for payload, one in zip(payloads, flat, strict=True):
            counts = np.bincount(one.reshape(-1), minlength=len(self._cdf))
            self._refuse_too_short(payload, float(counts @ self._least_bits), rows.shape)
        residual = self._empty(tuple(rows.shape))
        items = zip(payloads, residual.flatten(2).numpy(), flat, strict=True)
        self._map(self._decode_one, list(items))
        residual = residual.to(self._device, non_blocking=True)
        return residual if means is None else residual + means

    def estimate(self, latent: Tensor, rows: Tensor, means: Tensor | None = None) -> list[int]:
        """Return each image's payload size in bytes from the tables, without coding.

        Args:
            latent: as for `encode`.
            rows: as there.
            means: as there.
        """
        self._check(latent, rows, means)
        symbols = torch.round(latent if means is None else latent - means).to(torch.int64)
        return self._information(symbols.flatten(2), rows.flatten(2).to(torch.int64))

    def _check(self, latent: Tensor, rows: Tensor, means: Tensor | None) -> None:
        """Compare a latent with its tables' rows, before a loop that does not look."""
        shapes = [tuple(t.shape) for t in (latent, rows, means) if t is not None]
        if latent.dim() != 4 or 0 in latent.shape[1:] or len(set(shapes)) > 1:
            listed = " and ".join(map(str, dict.fromkeys(shapes)))
            raise UsageError(f"a latent, its scales and means of shape {listed}")
        check_type(latent)

    def _on_host_flat(self, rows: Tensor) -> np.ndarray:
        """Rows [N, C, L] that a loop can follow without looking: every one is a table's."""
        if rows.dtype != torch.uint8:
            raise UsageError(f"scales' rows of {rows.dtype}, not those of `rows`")
        flat = on_host(rows.contiguous()).flatten(2).numpy()
        if flat.size and int(flat.max()) >= len(self._cdf):
            raise UsageError(f"scales' rows up to {flat.max()} of {len(self._cdf)}")
        return flat

    def _encode_one(self, item: tuple[np.ndarray, np.ndarray]) -> bytes:
        latent, rows = item
        return self._encode_image(latent, _whole_numbers(latent), rows)

    def _decode_one(self, item: tuple[bytes, np.ndarray, np.ndarray]) -> None:
        payload, latent, rows = item
        self._decode_image(payload, latent, _whole_numbers(latent), rows)


def _whole_numbers(latent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the grid of a latent [C, L] that is rounded around 0."""
    return np.zeros(len(latent), np.float32), np.ones(len(latent), np.float32)
