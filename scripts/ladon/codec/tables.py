"""Checks of CDF tables, scales and quantiles, before a loop without bounds checks reads them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ladon.codec.streams import FULL, check_rows
from ladon.errors import CheckpointError

# a table has a frequency of at least one in 2^16 for each value, so no wider range can be coded
MAX_WIDTH = FULL - 2
_MAX_QUANTILE = float(1 << 24)  # float32 counts in steps of one up to here
# a symbol names its table by a byte; CompressAI makes 64
_MAX_SCALES = 256


def as_tables(
    cdf: Tensor,
    length: Tensor,
    offset: Tensor,
    rows: int,
    row: str = "channel",
    whose: str = "the latent",
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return checked tables as int32 arrays.

    Args:
        cdf: [R, W] cumulative frequencies.
        length: [R], entries used of each row.
        offset: [R], value of each row's first symbol.
        rows: R, of a factorised prior the latent's channels.
        row: what a row is for, for errors.
        whose: what has as many of these.

    Raises:
        CheckpointError: naming the table or the first row that is unusable.
    """
    named = {"_quantized_cdf": cdf, "_cdf_length": length, "_offset": offset}
    for name, table in named.items():
        if table.dtype not in (torch.int32, torch.int64, torch.int16, torch.uint8, torch.int8):
            raise CheckpointError(f"CDF table {name} holds {table.dtype}, not whole numbers")
    if cdf.numel() == 0 or length.numel() == 0 or offset.numel() == 0:
        missing = ", ".join(name for name, table in named.items() if table.numel() == 0)
        raise CheckpointError(f"CDF tables are missing ({missing}): update() the bottleneck")
    if cdf.dim() != 2 or length.dim() != 1 or offset.dim() != 1:
        shapes = ", ".join(f"{name} {tuple(table.shape)}" for name, table in named.items())
        raise CheckpointError(f"CDF tables are of odd shape: {shapes}")
    for name, table in named.items():
        if len(table) != rows:
            raise CheckpointError(
                f"CDF table {name} is for {len(table)} {row}s, {whose} has {rows}"
            )
    wide_cdf, wide_length, wide_offset = (
        np.ascontiguousarray(table.detach().cpu().numpy()).astype(np.int64)
        for table in named.values()
    )
    check_rows(wide_cdf, wide_length, wide_offset, row)
    return wide_cdf.astype(np.int32), wide_length.astype(np.int32), wide_offset.astype(np.int32)


def as_scale_tables(
    cdf: Tensor, length: Tensor, offset: Tensor, scale_table: Tensor
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a Gaussian conditional's checked tables as int32 arrays, a row for each scale.

    Args:
        cdf: [S, W] cumulative frequencies.
        length: [S], entries used of each row.
        offset: [S], value of each row's first symbol.
        scale_table: [S] standard deviations.

    Raises:
        CheckpointError: naming the table, or the first row or scale that is unusable.
    """
    check_scales(scale_table)
    return as_tables(cdf, length, offset, len(scale_table), "scale", "scale_table")


def check_scales(scale_table: Tensor) -> None:
    """Refuse scales [S] that are no standard deviations in increasing order.

    Raises:
        CheckpointError: naming the first one that is unusable.
    """
    if scale_table.numel() == 0:
        raise CheckpointError("CDF tables are missing (scale_table): update() the bottleneck")
    if scale_table.dim() != 1 or not scale_table.is_floating_point():
        shape = tuple(scale_table.shape)
        raise CheckpointError(f"scale_table of shape {shape} of {scale_table.dtype}, not [S] float")
    if len(scale_table) > _MAX_SCALES:
        raise CheckpointError(f"scale_table holds {len(scale_table)} scales, over {_MAX_SCALES}")
    values = scale_table.detach().cpu().double().numpy()
    is_bad = ~np.isfinite(values) | (values <= 0)
    is_bad[1:] |= ~(np.diff(values) > 0)
    if is_bad.any():
        number = int(is_bad.argmax())
        raise CheckpointError(
            f"scale_table holds {values[number]:.6g} at {number}: scales are positive and increase"
        )


def check_quantiles(quantiles: Tensor) -> None:
    """Refuse quantiles [C, 1, 3] of which no table can be built.

    `update()` makes room for the widest range of all channels, and counts from the medians.

    Raises:
        CheckpointError: naming the first channel that is unusable.
    """
    if quantiles.dim() != 3 or len(quantiles) == 0 or tuple(quantiles.shape[1:]) != (1, 3):
        raise CheckpointError(f"quantiles of shape {tuple(quantiles.shape)}, not [C, 1, 3]")
    values = quantiles.detach().cpu().double()[:, 0]
    width = (values[:, 2] - values[:, 0]).nan_to_num(torch.inf)
    is_bad = ~values.isfinite().all(dim=1) | (values.abs().amax(dim=1) > _MAX_QUANTILE)
    is_bad |= width > MAX_WIDTH
    # one side of the median alone may be as wide, whatever the order of the three
    is_bad |= (values - values[:, 1:2]).abs().amax(dim=1).nan_to_num(torch.inf) > MAX_WIDTH
    if is_bad.any():
        channel = int(is_bad.nonzero()[0])
        found = ", ".join(f"{v:.6g}" for v in values[channel].tolist())
        raise CheckpointError(
            f"quantiles of channel {channel} ({found}) are none that a CDF table can be built of"
        )
