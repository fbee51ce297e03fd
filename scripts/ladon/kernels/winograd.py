"""Winograd convolution for inference on the CPU: 2x2 and 3x3 kernels with fewer multiplications.

An m x m tile of the output needs (m + r - 1)^2 multiplications per pair of channels instead of
m^2 r^2 (S. Winograd, "Arithmetic Complexity of Computations", SIAM 1980; A. Lavin and S. Gray,
"Fast Algorithms for Convolutional Neural Networks", CVPR 2016, whose names U, V and M are used
here): Y = A^T [(G g G^T) * (B^T d B)] A for a tile d of the input and a kernel g.

float32 uses 4x4 or 6x6 tiles, bfloat16 only 4x4 ones: rounding V to 8 bits would spoil the larger
transform. The sum over channels, a matrix product for each position of the tile, is oneDNN's
grouped 1x1 convolution with its weights packed beforehand. On a processor that multiplies matrices
of bfloat16 in hardware (AMX) the plain convolution takes half as long as the transforms do, and
oneDNN has no fast kernel for the products of some numbers of tiles: there bfloat16 is left to it.
"""

from __future__ import annotations

import functools
import threading
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from ladon.kernels.packed_conv import FusedConv2d, PackedConv2d
from ladon.kernels.winograd_kernels import JOB, LANES, transform, transform_matrices

# V of one part of an image: enough tiles for the matrix products, and stays in the L3 cache
_PART_BYTES = 16 << 20
# a matrix product over few tiles takes about as long as one over this many more
_SPARE_TILES = 30
# numbers of winograd_kernels' tile transforms, by the tile's side (input) or m (output)
_INPUT_VARIANTS = {(4, torch.float32): 0, (6, torch.float32): 1, (4, torch.bfloat16): 2}
_OUTPUT_VARIANTS = {
    (2, torch.float32): 0,
    (3, torch.float32): 1,
    (4, torch.float32): 2,
    (5, torch.float32): 3,
    (2, torch.bfloat16): 4,
    (3, torch.bfloat16): 5,
}
_ONES = [1, 1]

_scratch = threading.local()


def _buffer(name: str, nbytes: int) -> Tensor:
    """Return this thread's buffer of that name: fresh memory costs page faults at every call."""
    kept = getattr(_scratch, name, None)
    if kept is None or kept.numel() < nbytes:
        kept = torch.empty(nbytes, dtype=torch.uint8)
        setattr(_scratch, name, kept)
    return kept


@functools.cache
def _has_matrix_unit() -> bool:
    """Whether the processor multiplies matrices of bfloat16 in hardware."""
    return torch.cpu._is_amx_tile_supported()


class WinogradConv2d(PackedConv2d):
    """A convolution with stride 1 and fewer multiplications; see :meth:`from_conv`."""

    kind, operator = "Winograd", "_convolution_pointwise"
    needs = (
        "on the CPU, with stride, dilation and groups 1, a 2x2 or 3x3 kernel and channels that are "
        f"multiples of {LANES}"
    )

    def __init__(self, conv: nn.Conv2d, *, relu: bool) -> None:
        super().__init__(conv, relu=relu)
        bias = conv.bias
        self._bias = (
            torch.zeros(len(conv.weight)) if bias is None else bias.detach().float().clone()
        )
        self.padding = cast(tuple[int, int], conv.padding)
        self._plain = FusedConv2d(conv, relu=relu, weight=self._weight)

    @classmethod
    def can_replace(cls, module: Any) -> bool:
        """Whether :meth:`from_conv` takes the module and this PyTorch has the operators for it."""
        return (
            super().can_replace(module)
            and module.kernel_size in ((2, 2), (3, 3))
            and module.stride == module.dilation == (1, 1)
            and module.in_channels % LANES == module.out_channels % LANES == 0
        )

    def _tile_size(self, height: int, width: int, dtype: torch.dtype) -> int | None:
        """Return the m with the fewest multiplications for an output of that size.

        None where the plain convolution is faster in any case: in bfloat16, if the processor has a
        unit for it.
        """
        r = self._weight.shape[-1]

        def cost(m: int) -> int:
            return (m + r - 1) ** 2 * (-(-height // m) * -(-width // m) + _SPARE_TILES)

        if dtype == torch.bfloat16 and _has_matrix_unit():
            return None
        sides = (4, 6) if dtype == torch.float32 else (4,)
        return min((side - r + 1 for side in sides), key=cost)

    def _packed_weight(self, m: int, dtype: torch.dtype, tiles: int) -> Tensor:
        """Return U = G g G^T for each kernel, as oneDNN's weights of a 1x1 convolution."""
        packed = self._packed.get((m, dtype))
        if packed is None:
            outputs, inputs, r, _ = self._weight.shape
            positions = (m + r - 1) ** 2
            g = torch.from_numpy(transform_matrices(m, r)[1])
            # G g G^T of all kernels is one product with the Kronecker product of G with itself
            both = torch.kron(g, g).float()
            u = both @ self._weight.view(outputs * inputs, r * r).t()
            u = u.view(positions * outputs, inputs, 1, 1).to(dtype).to_mkldnn()
            size = [1, positions * inputs, tiles, 1]
            packed = torch._C._nn.mkldnn_reorder_conv2d_weight(  # type: ignore[call-arg]
                u, [0, 0], _ONES, _ONES, positions, size
            )
            self._packed[m, dtype] = packed
        return packed

    def _output_size(self, x: Tensor) -> tuple[int, int]:
        r = self._weight.shape[-1]
        height, width = (x.shape[i] + 2 * self.padding[i] - r + 1 for i in (-2, -1))
        return height, width

    def _is_large_enough(self, x: Tensor) -> bool:
        return min(self._output_size(x)) >= 1

    def forward(self, x: Tensor) -> Tensor:
        """Convolves.

        Args:
            x: [N, C, H, W], float32 or bfloat16 (what autocast makes of it), finite, no gradient.

        Returns:
            [N, K, H', W'], channels last, of x's dtype; an image's values depend neither on the
            other images of the batch nor on the number of threads.

        Raises:
            LadonError: any other input, or one that needs a gradient.
        """
        x = self._prepared(x)
        outputs = len(self._weight)
        height, width = self._output_size(x)
        m = self._tile_size(height, width, x.dtype)
        if m is None:
            return self._plain(x)
        y = torch.empty(
            (len(x), outputs, height, width), dtype=x.dtype, memory_format=torch.channels_last
        )
        self._convolve(x, y, m)
        return y

    def _convolve(self, x: Tensor, y: Tensor, m: int) -> None:
        """Convolve images [N, C, H, W] into [N, K, H', W'], part by part.

        A part is some rows of tiles of a large image, or as many small images as fit: each product
        reads all weights, which takes longer than the product of a small image's few tiles.
        """
        inputs, outputs = x.shape[1], y.shape[1]
        item, positions = x.element_size(), (m + self._weight.shape[-1] - 1) ** 2
        down, across = -(-y.shape[2] // m), -(-y.shape[3] // m)
        tile, product = positions * inputs * item, positions * outputs * item
        # parts of equal size, so that the last is not much smaller
        rows = -(-down // -(-down * across * tile // _PART_BYTES))
        together = min(len(x), max(1, _PART_BYTES // (down * across * tile)))
        v_bytes = _buffer("v", together * rows * across * tile)
        to_tiles, to_image = self._jobs(x, y, m)
        for images, results in zip(x.split(together), y.split(together), strict=True):
            for first in range(0, down, rows):
                count = min(rows, down - first)
                for job in (to_tiles, to_image):
                    job["first_row"], job["rows"] = first, count
                tiles = count * across
                _transform_each(to_tiles, images, v_bytes, tiles * tile, is_output=False)
                v = v_bytes[: len(images) * tiles * tile].view(x.dtype)
                v = v.view(1, -1, 1, positions * inputs).permute(0, 3, 1, 2)
                products = torch.ops.mkldnn._convolution_pointwise(
                    v,
                    self._packed_weight(m, x.dtype, tiles),
                    None,
                    [0, 0],
                    _ONES,
                    _ONES,
                    positions,
                    "none",
                    [],
                    None,
                )
                _transform_each(to_image, results, products, tiles * product, is_output=True)

    def _jobs(self, x: Tensor, y: Tensor, m: int) -> tuple[np.ndarray, np.ndarray]:
        """Return what the two transforms, to tiles and to an image, have in common for a batch."""
        side = m + self._weight.shape[-1] - 1
        patch = side * side * max(x.shape[1], y.shape[1]) * x.element_size()
        patches = _buffer("patches", torch.get_num_threads() * patch)
        to_tiles, to_image = np.zeros(1, JOB), np.zeros(1, JOB)
        for job, images, pad, variant, edge in (
            (to_tiles, x, self.padding, _INPUT_VARIANTS[side, x.dtype], side),
            (to_image, y, (0, 0), _OUTPUT_VARIANTS[m, x.dtype], m),
        ):
            job["tiles_across"], job["step"], job["side"] = -(-y.shape[3] // m), m, side
            job["item"], job["patches"], job["patch"] = x.element_size(), patches.data_ptr(), patch
            job["pixel"] = images.shape[1] * x.element_size()
            job["height"], job["width"] = images.shape[2:]
            job["pad_y"], job["pad_x"] = pad
            job["variant"], job["size"] = variant, edge
        to_image["bias"] = self._bias.data_ptr()
        to_image["bound"] = 0.0 if self.relu else -np.inf
        return to_tiles, to_image


def _transform_each(
    job: np.ndarray, images: Tensor, tiles: Tensor, step: int, *, is_output: bool
) -> None:
    """Transform the job's rows of tiles of each image; an image's tiles take `step` bytes."""
    for number, image in enumerate(images):
        job["image"], job["tiles"] = image.data_ptr(), tiles.data_ptr() + number * step
        transform(job, torch.get_num_threads(), is_output=is_output)
