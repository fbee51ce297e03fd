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
        for source, target in zip(x, y, strict=True):
            self._convolve(source, target, m)
        return y

    def _convolve(self, source: Tensor, target: Tensor, m: int) -> None:
        """Convolve one image [C, H, W] into [K, H', W'], part by part (rows of tiles)."""
        inputs, outputs = source.shape[0], target.shape[0]
        side = m + self._weight.shape[-1] - 1
        positions = side * side
        item, threads = source.element_size(), torch.get_num_threads()
        down, across = -(-target.shape[1] // m), -(-target.shape[2] // m)
        # parts of equal size, so that the last is not much smaller
        parts = -(-down * across * positions * inputs * item // _PART_BYTES)
        rows = -(-down // parts)
        patch = positions * max(inputs, outputs) * item
        patches = _buffer("patches", threads * patch)
        v_bytes = _buffer("v", rows * across * positions * inputs * item)

        to_tiles, to_image = np.zeros(1, JOB), np.zeros(1, JOB)
        for each, image, pad, variant, edge in (
            (to_tiles, source, self.padding, _INPUT_VARIANTS[side, source.dtype], side),
            (to_image, target, (0, 0), _OUTPUT_VARIANTS[m, source.dtype], m),
        ):
            each["tiles_across"], each["step"], each["side"] = across, m, side
            each["item"], each["patches"], each["patch"] = item, patches.data_ptr(), patch
            each["image"], each["pixel"] = image.data_ptr(), image.shape[0] * item
            each["height"], each["width"] = image.shape[1:]
            each["pad_y"], each["pad_x"] = pad
            each["variant"], each["size"] = variant, edge
        to_tiles["tiles"] = v_bytes.data_ptr()
        to_image["bias"] = self._bias.data_ptr()
        to_image["bound"] = 0.0 if self.relu else -np.inf
        for first in range(0, down, rows):
            count = min(rows, down - first)
            tiles = count * across
            for each in (to_tiles, to_image):
                each["first_row"], each["rows"] = first, count
            transform(to_tiles, threads, is_output=False)
            v = v_bytes[: tiles * positions * inputs * item].view(source.dtype)
            v = v.view(1, tiles, 1, positions * inputs).permute(0, 3, 1, 2)
            products = torch.ops.mkldnn._convolution_pointwise(
                v,
                self._packed_weight(m, source.dtype, tiles),
                None,
                [0, 0],
                _ONES,
                _ONES,
                positions,
                "none",
                [],
                None,
            )
            to_image["tiles"] = products.data_ptr()
            transform(to_image, threads, is_output=True)
