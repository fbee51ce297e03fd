"""A model made fast for evaluation while a context is open, and left as it was afterwards.

with inference(model, "full", precision="bf16") as payloads:
    with forward_only(device, "bf16"):
        outputs = model(images)      # once per batch, from any thread
    sizes = payloads.pop()           # of this thread's passes

- GDN's reparametrisation is computed once instead of at every call, with the same values;
- BatchNorm is folded into the convolution before it; on a CPU, convolutions behind the payload are
  Winograd's or have packed weights, blocks and feature pyramids are fused (float32 rounding, about
  1e-6 relative), and RoIAlign uses all threads;
- a segmenter's auxiliary head, which only trains, is left out;
- bf16 is autocast of decoder, body and heads, whose weights are held in bf16; encoder, quantisation
  and entropy model stay in float32 and in their one pinned form of execution, so that the payloads
  are the same to the bit;
- the bottleneck codes with this project's coder (`ladon.bottlenecks`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from compressai.layers import GDN1
from sc2bench.models.segmentation.base import BaseSegmentationModel
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torchvision.models.segmentation import FCN, DeepLabV3
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.misc import FrozenBatchNorm2d

from ladon.backbones import FAMILIES
from ladon.bottlenecks import PayloadSizes, entropy_coding, find_bottleneck, known_bottleneck
from ladon.models.compiled import compiled as compiling
from ladon.models.precision import float32_where_it_matters
from ladon.modules import is_watched

try:
    from ladon.kernels.fused_blocks import FusedConv2d, FusedInverseGDN1, replaced_blocks
    from ladon.kernels.fused_pyramid import FusedPyramid
    from ladon.kernels.roi_align import FastRoIAlign
    from ladon.kernels.winograd import WinogradConv2d
except ImportError:  # numba does not come for every new Python at once
    WinogradConv2d = None  # type: ignore[assignment, misc]

_Folds = Mapping[type[nn.Module], tuple[tuple[str, str], ...]]


class FoldedGDN1(nn.Module):
    """CompressAI's GDN1 with its reparametrisation computed once; same values to the bit.

    y = x / (beta + gamma |x|), inverse: y = x (beta + gamma |x|) (Johnston et al., 2019,
    "Computationally efficient neural image compression").

    Args:
        gdn: the layer, whose parameters are read now.
    """

    beta: Tensor
    gamma: Tensor

    def __init__(self, gdn: GDN1) -> None:
        super().__init__()
        self.inverse = gdn.inverse
        channels = len(gdn.beta)
        self.register_buffer("beta", gdn.beta_reparam(gdn.beta).detach())
        gamma = gdn.gamma_reparam(gdn.gamma).detach().reshape(channels, channels, 1, 1)
        self.register_buffer("gamma", gamma.contiguous(memory_format=torch.channels_last))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [N, C, H, W]."""
        norm = functional.conv2d(x.abs(), self.gamma, self.beta)
        if not self.inverse:
            norm.reciprocal_()
        return norm.mul_(x)


@contextmanager
def inference(
    model: nn.Module,
    mode: str = "full",
    *,
    precision: str = "float32",
    compiled: bool = False,
) -> Iterator[PayloadSizes]:
    """Everything that makes evaluation fast, while it is open.

    Args:
        model: in eval mode and channels_last, on its device.
        mode: how latents are coded, one of `ladon.choices.MODES`.
        precision: one of `ladon.choices.PRECISIONS`; the autocast itself is entered by
            `forward_only`, because it belongs to a thread.
        compiled: let `torch.compile` have decoder, body and heads (not the encoder: the
            bitstream must not depend on it).

    Yields:
        PayloadSizes, filled by each forward pass.
    """
    with ExitStack() as stack:
        stack.enter_context(_folded(model, fused=not compiled))
        if compiled:  # before any hook: it compiles them, too, at the first call
            stack.enter_context(compiling(model))
        if precision != "float32":
            stack.enter_context(float32_where_it_matters(model))
            stack.enter_context(_cast_weights(model))
        yield stack.enter_context(entropy_coding(model, mode))


@contextmanager
def _folded(model: nn.Module, *, fused: bool) -> Iterator[None]:
    """Exchange layers for folded ones, and take them back in the end.

    With `fused` also for those of a CPU, which torch.compile would not look into.
    """
    exchanged: list[tuple[nn.Module, str, nn.Module | None]] = []

    def exchange(parent: nn.Module, name: str, layer: nn.Module | None) -> None:
        exchanged.append((parent, name, parent._modules[name]))
        parent._modules[name] = layer

    blocks = {b: pairs for family in FAMILIES.values() for b, pairs in family.folds().items()}
    bottleneck = known_bottleneck(model)
    before_payload = () if bottleneck is None else bottleneck.transforms
    kept = {module for part in before_payload for module in part.modules()}
    fused &= WinogradConv2d is not None
    fused &= all(parameter.device.type == "cpu" for parameter in model.parameters())
    with torch.no_grad():
        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                if type(child) is GDN1 and not is_watched(child):
                    exchange(parent, name, FoldedGDN1(child))
            # folding rounds: no payload may depend on it
            for conv_name, norm_name in _pairs(parent, blocks) if parent not in kept else ():
                conv: Any = parent._modules[conv_name]
                norm: Any = parent._modules[norm_name]
                if _can_fold(conv, norm):
                    exchange(parent, conv_name, _fold(conv, norm))
                    exchange(parent, norm_name, nn.Identity())
        for parent, name in _unscored(model):
            exchange(parent, name, None)
        for parent, name, faster in _faster_parts(model) if fused else ():
            exchange(parent, name, faster)
    try:
        yield
    finally:
        for parent, name, layer in reversed(exchanged):
            parent._modules[name] = layer


def _unscored(model: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Yield (parent, name) of the heads that only train: a segmenter without one leaves it out."""
    for parent in list(model.modules()):
        head = getattr(parent, "aux_classifier", None)
        if not isinstance(parent, BaseSegmentationModel | DeepLabV3 | FCN) or head is None:
            continue
        if not any(map(is_watched, head.modules())):
            yield parent, "aux_classifier"


def _faster_parts(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """Yield (parent, name, layer) of what a CPU computes faster otherwise, up to rounding."""
    parts = _after_the_payload(model)
    for part in parts:
        yield from replaced_blocks(part)
    allowed = {module for part in parts for module in part.modules()}
    for parent in list(model.modules()):
        for name, child in list[tuple[str, Any]](parent.named_children()):
            if child not in allowed or is_watched(child):
                continue
            if type(child) is MultiScaleRoIAlign:
                yield parent, name, FastRoIAlign(child)
            elif FusedPyramid.can_replace(child):
                yield parent, name, FusedPyramid(child)
                allowed -= set(child.inner_blocks.modules())  # it has packed them already
            elif WinogradConv2d.can_replace(child):
                yield parent, name, WinogradConv2d.from_conv(child)
            elif FusedConv2d.can_replace(child):
                yield parent, name, FusedConv2d.from_conv(child)
            elif type(child) is FoldedGDN1 and child.inverse and FusedConv2d.is_available():
                yield parent, name, FusedInverseGDN1(child.gamma, child.beta)


def _after_the_payload(model: nn.Module) -> list[nn.Module]:
    """Return the parts of a model whose rounding no payload depends on."""
    bottleneck = known_bottleneck(model)
    if bottleneck is None:
        return [model] if find_bottleneck(model) is None else []
    above = [m for m in model.modules() if bottleneck in list(m.modules()) and m is not bottleneck]
    beside = [c for m in above for c in m.children() if c not in above and c is not bottleneck]
    return [bottleneck.synthesis, *beside]


def _pairs(parent: nn.Module, blocks: _Folds) -> list[tuple[str, str]]:
    """Names of a module's (convolution, normalisation) pairs that surely run one after another."""
    pairs = blocks.get(type(parent))
    if pairs is not None:
        return [p for p in pairs if None not in (getattr(parent, n, None) for n in p)]
    if isinstance(parent, nn.Sequential) and type(parent).forward is nn.Sequential.forward:
        names = list(parent._modules)
        return list(itertools.pairwise(names))
    return []


def _can_fold(conv: Any, norm: Any) -> bool:
    if type(conv) is not nn.Conv2d or is_watched(conv) or is_watched(norm):
        return False
    return type(norm) is FrozenBatchNorm2d or (
        type(norm) is nn.BatchNorm2d and not norm.training and norm.running_mean is not None
    )


def _fold(conv: Any, norm: Any) -> nn.Conv2d:
    """Return the convolution that gives what convolution and normalisation give together."""
    weight, bias = fuse_conv_bn_weights(
        conv.weight,
        conv.bias,
        norm.running_mean,
        norm.running_var,
        norm.eps,
        norm.weight,
        norm.bias,
    )
    folded = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        conv.stride,
        conv.padding,
        conv.dilation,
        conv.groups,
        True,
        conv.padding_mode,
        "meta",
    )
    packed = weight.detach().contiguous(memory_format=torch.channels_last)
    folded.weight = nn.Parameter(packed, requires_grad=False)
    folded.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return folded.eval()


@contextmanager
def _cast_weights(model: nn.Module) -> Iterator[None]:
    """Hold in bf16 what autocast would cast anew in every batch; the same values to the bit."""
    held: list[tuple[nn.Module, str, nn.Parameter]] = []
    for module in (m for part in _after_the_payload(model) for m in part.modules()):
        if type(module) not in (nn.Conv2d, nn.Linear):
            continue
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.dtype is torch.float32:
                held.append((module, name, parameter))
                cast = parameter.detach().bfloat16()
                module._parameters[name] = nn.Parameter(cast, requires_grad=False)
    try:
        yield
    finally:
        for module, name, parameter in held:
            module._parameters[name] = parameter
