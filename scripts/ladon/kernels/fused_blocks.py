"""ResNet's bottleneck blocks for inference on the CPU: no pass of their own for ReLU and sum.

Besides its multiplications, three things cost an eager block time: ReLU and sum read and write
every value once more, oneDNN lays out the weights its own way at every call, and autocast rounds
them at every call (it keeps only those that want a gradient). Here oneDNN's convolution does it
all, its weights packed beforehand; `torch.compile` uses the same operators (see PyTorch's
`torch/_inductor/mkldnn_ir.py`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from ladon.errors import LadonError
from ladon.kernels.packed_conv import FusedConv2d, inference_dtype
from ladon.kernels.winograd import WinogradConv2d
from ladon.modules import is_watched

# pixels whose 512 channels stay in the cores' L2 caches from one step to the next
_PIXELS = 2048
_LINE = 16  # floats of a cache line


class FusedInverseGDN1(nn.Module):
    """Inverse GDN1, x (beta + gamma |x|), memory read and written once.

    Args:
        gamma: [C, C, 1, 1], reparametrised.
        beta: [C], likewise.
    """

    def __init__(self, gamma: Tensor, beta: Tensor) -> None:
        super().__init__()
        conv = nn.Conv2d(len(beta), len(beta), 1, device="meta")
        conv.weight = nn.Parameter(gamma, requires_grad=False)
        conv.bias = nn.Parameter(beta, requires_grad=False)
        self._norm = FusedConv2d.from_conv(conv)
        # |x| has a channel more, of ones: the sum with beta takes no pass of its own
        self._weights = torch.cat([gamma[:, :, 0, 0].t(), beta[None]])

    def forward(self, x: Tensor) -> Tensor:
        """Denormalise [N, C, H, W]."""
        x = x.to(inference_dtype(x)).contiguous(memory_format=torch.channels_last)
        if x.dtype == torch.bfloat16:
            return self._norm.times(x.abs(), x)
        y, channels = torch.empty_like(x), x.shape[1]
        ones = x.new_ones(_PIXELS, (channels // _LINE + 1) * _LINE)[:, : channels + 1]
        for image, target in zip(x, y, strict=True):
            rows, results = (each.permute(1, 2, 0).flatten(0, 1) for each in (image, target))
            for own, result in zip(rows.split(_PIXELS), results.split(_PIXELS), strict=True):
                absolute = ones[: len(own)]
                torch.abs(own, out=absolute[:, :channels])
                torch.mm(absolute, self._weights, out=result).mul_(own)
        return y


class FusedBottleneck(nn.Module):
    """A torchvision `Bottleneck` with BatchNorm folded; see :meth:`from_block`."""

    def __init__(self, block: Bottleneck, *, owns_input: bool = False) -> None:
        super().__init__()
        self.owns_input = owns_input
        self.conv1 = FusedConv2d.from_conv(block.conv1, relu=True)
        fast = WinogradConv2d if WinogradConv2d.can_replace(block.conv2) else FusedConv2d
        self.conv2 = fast.from_conv(block.conv2, relu=True)
        self.conv3 = FusedConv2d.from_conv(block.conv3, relu=True)
        self.downsample = None
        if block.downsample is not None:
            self.downsample = FusedConv2d.from_conv(block.downsample[0])

    @staticmethod
    def can_replace(module: Any) -> bool:
        """Whether :meth:`from_block` takes the module, and no hook wants to see a part of it."""
        if type(module) is not Bottleneck or module.training:
            return False
        convs = [module.conv1, module.conv2, module.conv3]
        norms = [module.bn1, module.bn2, module.bn3]
        if module.downsample is not None:
            if type(module.downsample) is not nn.Sequential or len(module.downsample) != 2:
                return False
            convs.append(module.downsample[0])
            norms.append(module.downsample[1])
        return (
            all(map(FusedConv2d.can_replace, convs))
            and all(type(norm) is nn.Identity for norm in norms)
            and type(module.relu) is nn.ReLU
            and not any(map(is_watched, module.modules()))
        )

    @classmethod
    def from_block(cls, block: Bottleneck, *, owns_input: bool = False) -> FusedBottleneck:
        """Return a module that computes what the block does, up to rounding.

        Args:
            block: in eval mode, its normalisations folded into the convolutions and nn.Identity.
            owns_input: its input is of use to nobody else: the result may overwrite it.

        Raises:
            LadonError: :meth:`can_replace` is false.
        """
        if not cls.can_replace(block):
            raise LadonError(
                f"no fused block for this {type(block).__name__}: it has to be a Bottleneck in "
                f"eval mode on the CPU, without groups and hooks, BatchNorm folded; keep the block"
            )
        return cls(block, owns_input=owns_input)

    def forward(self, x: Tensor) -> Tensor:
        """Compute [N, C, H, W] -> [N, K, H', W'], x left as it is unless it is owned."""
        x = x.to(inference_dtype(x))  # once, not for each of its two readers
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.conv2(self.conv1(x))
        return self.conv3(y, shortcut, owned=self.downsample is not None or self.owns_input)


def replaced_blocks(model: nn.Module) -> list[tuple[nn.Module, str, FusedBottleneck]]:
    """Find what to exchange in a model once its BatchNorm is folded; change nothing.

    Returns:
        (parent, name of the child, fused block) for each block that can be replaced.
    """
    found = []
    for parent in model.modules():
        follows = False  # a block that nobody watches, in a chain that hands its result on
        for name, child in parent.named_children():
            fits = FusedBottleneck.can_replace(child)
            if fits:
                block = FusedBottleneck.from_block(child, owns_input=follows)
                found.append((parent, name, block))
            follows = fits and type(parent) is nn.Sequential
    return found
