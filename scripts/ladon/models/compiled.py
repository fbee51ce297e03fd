"""`torch.compile` of what follows the payload, while a context is open.

Never of the encoder: the bitstream must not depend on whether somebody compiles.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ladon.backbones import stage_names
from ladon.bottlenecks import known_bottleneck
from ladon.modules import is_watched

_MOST_FORMS = 256  # layers of a teacher and a student, each for some shapes and modes


@contextmanager
def compiled(model: nn.Module) -> Iterator[None]:
    """Compile decoder, body and FPN in place; shapes beyond the first are made dynamic.

    A layer that somebody's hook watches (losses read layers so) is compiled block by block: the
    hook stays outside, and is called as ever.

    Args:
        model: a student or a teacher; its state dict keeps its names.
    """
    bottleneck = known_bottleneck(model)
    layers = {*stage_names(), "fpn"}
    parts = [m for n, m in model.named_modules() if n.rpartition(".")[2] in layers]
    if bottleneck is not None:
        parts.append(bottleneck.synthesis)
    modules = [module for part in parts for module in _unwatched(part)]
    for module in modules:
        module.compile()
    try:
        # all of them are calls of one function to PyTorch, which gives up on the ninth form of it
        with torch._dynamo.config.patch(recompile_limit=_MOST_FORMS):
            yield
    finally:
        for module in modules:
            module._compiled_call_impl = None


def _unwatched(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the largest parts of a module that hold no watched one."""
    if isinstance(module, nn.ModuleList) or any(map(is_watched, module.modules())):
        for child in module.children():
            yield from _unwatched(child)
    else:
        yield module
