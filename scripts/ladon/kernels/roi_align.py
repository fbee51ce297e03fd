"""RoIAlign for inference on the CPU: channels next to each other, and as many threads as operators.

torchvision's operator runs in one thread and channel by channel, so that it reads four bytes of a
cache line at a time, and it wants feature maps copied into that order; 1,000 proposals take it as
long as a ResNet-50 takes their image. Here a sample's four neighbours are read for all channels at
once from maps in channels_last. The arithmetic is torchvision's, up to rounding (He et al., "Mask
R-CNN", ICCV 2017, section 3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import torch
from torch import Tensor, nn
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops._utils import convert_boxes_to_roi_format

_FEWEST = 64  # boxes that are worth a thread's turn


@numba.njit(nogil=True, error_model="numpy", inline="always")
def _corners(at, size):  # pragma: no cover (compiled)
    """Return both neighbours of a coordinate, and the weight of the second."""
    at = max(at, np.float32(0))
    low = int(at)
    if low >= size - 1:
        return size - 1, size - 1, np.float32(0)
    return low, low + 1, at - np.float32(low)


@numba.njit(nogil=True, error_model="numpy", cache=True)
def _pool(features, rois, rows, scale, ratio, pooled):  # pragma: no cover (compiled)
    """Pool some boxes from one level.

    Args:
        features: float32 [N, H, W, C].
        rois: float32 [K, 5], image and corners in its pixels.
        rows: int64 [R], which of them.
        scale: float32, cells of the features per pixel.
        ratio: samples per bin and side; 0: as many as the bin has cells.
        pooled: float32 [K, C, h, w], whose rows are written.
    """
    height, width, channels = features.shape[1:]
    down, across = pooled.shape[2:]
    one, half = np.float32(1), np.float32(0.5)
    bins = np.empty((down * across, channels), np.float32)
    for row in rows:
        image = int(rois[row, 0])
        left, top = rois[row, 1] * scale, rois[row, 2] * scale
        bin_width = max(rois[row, 3] * scale - left, one) / np.float32(across)
        bin_height = max(rois[row, 4] * scale - top, one) / np.float32(down)
        grid_y = ratio if ratio > 0 else int(np.ceil(bin_height))
        grid_x = ratio if ratio > 0 else int(np.ceil(bin_width))
        share = one / np.float32(max(grid_y * grid_x, 1))
        bins[:] = 0
        for i in range(down):
            for j in range(across):
                total = bins[i * across + j]
                for iy in range(grid_y):
                    y = top + np.float32(i) * bin_height
                    y += (np.float32(iy) + half) * bin_height / np.float32(grid_y)
                    for ix in range(grid_x):
                        x = left + np.float32(j) * bin_width
                        x += (np.float32(ix) + half) * bin_width / np.float32(grid_x)
                        if y < -one or y > height or x < -one or x > width:
                            continue
                        y0, y1, wy = _corners(y, height)
                        x0, x1, wx = _corners(x, width)
                        w00, w01 = (one - wy) * (one - wx), (one - wy) * wx
                        w10, w11 = wy * (one - wx), wy * wx
                        f00, f01 = features[image, y0, x0], features[image, y0, x1]
                        f10, f11 = features[image, y1, x0], features[image, y1, x1]
                        for c in range(channels):
                            total[c] += w00 * f00[c] + w01 * f01[c] + w10 * f10[c] + w11 * f11[c]
        for c in range(channels):
            for i in range(down):
                for j in range(across):
                    pooled[row, c, i, j] = bins[i * across + j, c] * share


class FastRoIAlign(nn.Module):
    """A `MultiScaleRoIAlign` for maps in channels_last on the CPU; equal up to rounding.

    Args:
        pool: torchvision's, which says levels, scales and sizes.
    """

    def __init__(self, pool: MultiScaleRoIAlign) -> None:
        super().__init__()
        self.pool = pool
        self._threads = ThreadPoolExecutor(torch.get_num_threads(), "roi-align")

    def forward(
        self,
        x: Mapping[str, Tensor],
        boxes: Sequence[Tensor],
        image_shapes: list[tuple[int, int]],
    ) -> Tensor:
        """Pool the boxes of all images.

        Args:
            x: feature maps [N, C, H, W] by level, on the CPU.
            boxes: of each image [K, 4] (x1, y1, x2, y2 in its pixels).
            image_shapes: height and width of each image.

        Returns:
            [sum of K, C, h, w], image after image.
        """
        boxes, pool = list(boxes), self.pool
        maps = [each for name, each in x.items() if name in pool.featmap_names]
        if any(each.dtype != torch.float32 or each.requires_grad for each in maps):
            return pool(x, boxes, image_shapes)
        if pool.scales is None:  # torchvision finds them out at the first call, from sizes alone
            pool(x, [image[:0] for image in boxes], image_shapes)
        rois = convert_boxes_to_roi_format(boxes)
        levels = pool.map_levels(boxes) if len(maps) > 1 else rois.new_zeros(len(rois))
        pooled = rois.new_empty(len(rois), maps[0].shape[1], *pool.output_size)
        work = [
            self._threads.submit(
                _pool,
                features.permute(0, 2, 3, 1).contiguous().numpy(),
                rois.numpy(),
                rows.numpy(),
                np.float32(scale),
                max(pool.sampling_ratio, 0),
                pooled.numpy(),
            )
            for level, (features, scale) in enumerate(zip(maps, pool.scales, strict=True))
            for rows in torch.where(levels == level)[0].split(_FEWEST)
        ]
        for each in work:
            each.result()
        return pooled
