"""bf16 by autocast: decoder, body and heads; never what a payload or a coordinate depends on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ladon.backbones import head_names
from ladon.bottlenecks import known_bottleneck
from ladon.modules import override_methods
from ladon.tensors import map_tensors

# what anchors, boxes and upsampled logits are computed from must not have 8 bits of mantissa
_DETECTOR = ("backbone", "fpn", "rpn.head", "roi_heads.box_predictor", "head", "classifier")
_OTHER = ("classifier", "aux_classifier")


@contextmanager
def autocast(device: torch.device, precision: str) -> Iterator[None]:
    """Enter the autocast of a precision (one of `ladon.choices.PRECISIONS`), for this thread."""
    if device.type == "meta":  # a rehearsal: there is nothing to be cast
        yield
        return
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        yield


@contextmanager
def forward_only(device: torch.device, precision: str = "float32") -> Iterator[None]:
    """No gradients, and the autocast of a precision; both belong to the thread that enters."""
    with torch.inference_mode(), autocast(device, precision):
        yield


@contextmanager
def float32_where_it_matters(model: nn.Module) -> Iterator[None]:
    """Keep, under autocast, what decides about bits and coordinates in float32.

    What payloads depend on, encoder and entropy models, runs without autocast; the outputs of a
    few modules, from which anchors, boxes and upsampled logits are computed, become float32 again.
    """
    is_detector = hasattr(model, "rpn") or hasattr(model, "anchor_generator")
    found = dict(model.named_modules())
    with ExitStack() as stack:
        for name in dict.fromkeys((*(_DETECTOR if is_detector else _OTHER), *head_names())):
            if name in found:
                handle = found[name].register_forward_hook(lambda m, i, output: as_float32(output))
                stack.callback(handle.remove)
        bottleneck = known_bottleneck(model)
        for module in () if bottleneck is None else bottleneck.pinned:
            stack.enter_context(override_methods(module, forward=_without_autocast(module.forward)))
        yield


def _without_autocast(inner: Callable[..., Any]) -> Callable[..., Any]:
    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        with torch.autocast(x.device.type, enabled=False):
            return inner(x.float(), *args, **kwargs)

    return forward


def as_float32(value: Any) -> Any:
    """Turn the floating-point tensors in nested dicts, lists and tuples into float32."""
    return map_tensors(lambda t: t.float() if t.is_floating_point() else t, value)
