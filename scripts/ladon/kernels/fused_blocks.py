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
from ladon.kernels.packed_conv import PackedConv2d, inference_dtype
from ladon.kernels.winograd import WinogradConv2d
from ladon.modules import is_watched


class FusedConv2d(PackedConv2d):
    """A convolution, the sum with a shortcut and ReLU in one; see :meth:`from_conv`."""

    kind, operator = "fused", "_convolution_pointwise_"

    def __init__(self, conv: nn.Conv2d, *, relu: bool) -> None:
        super().__init__(conv.weight, relu=relu)
        self._bias = None if conv.bias is None else conv.bias.detach().float().clone()
        self._geometry = (list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups)

    @classmethod
    def from_conv(cls, conv: nn.Conv2d, *, relu: bool = False) -> FusedConv2d:
        """Return a module that computes what the convolution does, up to rounding.

        Args:
            conv: float32, on the CPU, without groups, padding zeros whose number is given.
            relu: also apply the ReLU that follows it (or follows the sum with the shortcut).

        Raises:
            LadonError: the convolution is of another kind (:meth:`can_replace` says so).
        """
        if not cls.can_replace(conv):
            raise LadonError(
                f"no fused convolution for {conv}: it has to be float32, on a CPU for which "
                f"oneDNN has bfloat16, without groups and padded with a given number of zeros; "
                f"keep the nn.Conv2d"
            )
        return cls(conv, relu=relu)

    def _pack(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return weight and bias in x's dtype, the weight in the layout that oneDNN wants."""
        packed = self._packed.get(x.dtype)
        if packed is None:
            padding, stride, dilation, groups = self._geometry
            weight = torch._C._nn.mkldnn_reorder_conv2d_weight(  # type: ignore[call-arg]
                self._weight.to(x.dtype).to_mkldnn(),
                padding,
                stride,
                dilation,
                groups,
                list(x.shape),
            )
            packed = weight, None if self._bias is None else self._bias.to(x.dtype)
            self._packed[x.dtype] = packed
        return packed

    def forward(self, x: Tensor, shortcut: Tensor | None = None, *, owned: bool = False) -> Tensor:
        """Convolves, adds the shortcut if there is one, and applies ReLU if made to.

        Args:
            x: [N, C, H, W], float32 or bfloat16 (what autocast makes of it), no gradient.
            shortcut: [N, K, H', W'], converted to x's dtype.
            owned: the shortcut is of use to nobody else: the result may overwrite it.

        Returns:
            [N, K, H', W'], channels last, of x's dtype.

        Raises:
            LadonError: any other x.
        """
        x = self._prepared(x)
        weight, bias = self._pack(x)
        then = "relu" if self.relu else "none"
        conv: tuple[Any, ...] = (weight, bias, *self._geometry)
        if shortcut is None:
            return torch.ops.mkldnn._convolution_pointwise(x, *conv, then, [], "")
        shortcut = shortcut.to(x.dtype).contiguous(memory_format=torch.channels_last)
        conv += ("add", 1.0, then if self.relu else None, [], "")
        if owned:
            return torch.ops.mkldnn._convolution_pointwise_.binary(shortcut, x, *conv)
        return torch.ops.mkldnn._convolution_pointwise.binary(x, shortcut, *conv)

    def times(self, x: Tensor, factor: Tensor) -> Tensor:
        """Convolve x [N, C, H, W] and multiply the result by a factor of its shape and dtype."""
        x = self._prepared(x)
        factor = factor.to(x.dtype).contiguous(memory_format=torch.channels_last)
        conv: tuple[Any, ...] = (*self._pack(x), *self._geometry, "mul", 1.0, None, [], "")
        return torch.ops.mkldnn._convolution_pointwise.binary(x, factor, *conv)


class FusedInverseGDN1(nn.Module):
    """Inverse GDN1, x (beta + gamma |x|), whose product takes no pass of its own.

    Args:
        gamma: [C, C, 1, 1], reparametrised.
        beta: [C], likewise.
    """

    def __init__(self, gamma: Tensor, beta: Tensor) -> None:
        super().__init__()
        conv = nn.Conv2d(len(beta), len(beta), 1, device="meta")
        conv.weight = nn.Parameter(gamma, requires_grad=False)
        conv.bias = nn.Parameter(beta, requires_grad=False)
        self.norm = FusedConv2d.from_conv(conv)

    def forward(self, x: Tensor) -> Tensor:
        """Denormalise [N, C, H, W]."""
        x = x.to(inference_dtype(x))
        return self.norm.times(x.abs(), x)


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
