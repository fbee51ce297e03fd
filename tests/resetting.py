"""Models that start from weights of other classes, compared with those."""

from __future__ import annotations

import torch
from torch import nn

from ladon.models import build_model

WHERE = "models.model"
BOXES = {"roi_heads.box_predictor.cls_score", "roi_heads.box_predictor.bbox_pred"}


def seeded(model: nn.Module, seed: int = 7) -> dict[str, torch.Tensor]:
    """Tensors of a model none of which is as it was drawn."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(t.shape, generator=generator, dtype=t.dtype)
        if t.is_floating_point()
        else t
        for name, t in model.state_dict().items()
    }


def build(section: dict, kind: str = "classification", seed: int = 3, **more) -> nn.Module:
    torch.manual_seed(seed)
    return build_model(section, kind, WHERE, **more)


def check_reset(model: nn.Module, fresh: nn.Module, source: dict, layers: set[str]) -> None:
    """The layers are as they were drawn, everything else is the source's to the bit."""
    own, drawn = model.state_dict(), fresh.state_dict()
    assert own.keys() == drawn.keys()
    is_reset = {name: name.rpartition(".")[0] in layers for name in own}
    assert {name.rpartition(".")[0] for name, found in is_reset.items() if found} == layers
    for name, tensor in own.items():
        if is_reset[name]:
            assert torch.equal(tensor, drawn[name]), name
            assert name not in source or not torch.equal(tensor, source[name]), name
        elif name in source:
            assert torch.equal(tensor, source[name]), name
        else:  # a counter that FrozenBatchNorm2d lacks
            assert name.endswith("num_batches_tracked"), name
