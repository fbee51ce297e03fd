"""Three single-task models around one small body, and the three-headed model made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from students import detector_section, splittable_section
from torch import Tensor, nn

from ladon.models import build_model, update_bottleneck, write_checkpoint
from ladon.models.ladon import HEADS, ThreeHeadedLadon

CHANNELS = 4
ON_LAYER2 = {"return_layer_dict": {"layer2": "out", "layer3": "aux"}, "num_input_channels": 128}
"""Arguments of a segmenter that stands where the demo's does."""


def backbone(
    channels: int = CHANNELS, name: str = "resnet18", bottleneck: dict | None = None
) -> dict:
    """The section of a body."""
    return splittable_section(channels, name, classes=10, bottleneck=bottleneck)


def sections(
    channels: int = CHANNELS,
    name: str = "resnet18",
    segmentation: Mapping[str, Any] | None = None,
    bottleneck: dict | None = None,
) -> dict[str, dict]:
    """The sections of the three models; `segmentation` are further arguments of the segmenter."""
    body = channels, name, bottleneck
    return {
        "classification": backbone(*body),
        "detection": detector_section(backbone(*body)),
        "segmentation": {
            "key": "deeplabv3_model",
            "kwargs": {
                "num_classes": 5,
                "uses_aux": True,
                "num_input_channels": 512,
                "num_aux_channels": 256,
                "analyzable_layer_key": "bottleneck_layer",
                "backbone_config": backbone(*body),
                **(segmentation or {}),
            },
        },
    }


def single_models(**kwargs: Any) -> dict[str, nn.Module]:
    """The three single-task models around one body, as our training makes them."""
    torch.manual_seed(0)
    models = {
        head: build_model(section, head, head) for head, section in sections(**kwargs).items()
    }
    with torch.no_grad():
        for module in models["classification"].modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.1, 0.1)
    update_bottleneck(models["classification"])
    state = models["classification"].state_dict()
    for head, body in (("detection", "backbone.body"), ("segmentation", "backbone")):
        update_bottleneck(models[head])
        own = models[head].get_submodule(body)
        own.load_state_dict({n: t for n, t in state.items() if n in own.state_dict()})
    return models


def saved(
    models: Mapping[str, nn.Module],
    folder: Path,
    names: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Path]:
    """Write each model's checkpoint, with the names of its classes if given; return the paths."""
    paths = {}
    for head, model in models.items():
        paths[head] = folder / f"{head}.pt"
        write_checkpoint(paths[head], model, best_value=1.0, classes=(names or {}).get(head))
    return paths


def three_headed(paths: Mapping[str, Path], counts: bool = True, **values: Any) -> ThreeHeadedLadon:
    """The model of three checkpoints; `values` are further keys of its section.

    `own` among them are arguments of `sections`. Without `counts` no part says `num_classes`.
    """
    section = {"key": "ladon", **sections(**values.pop("own", {})), **values}
    for head in HEADS if not counts else ():
        section[head]["kwargs"].pop("num_classes")
    section["classification"]["src_ckpt"] = str(paths["classification"])
    for head in ("detection", "segmentation"):
        kwargs = section[head]["kwargs"]
        kwargs.pop("backbone_config")
        kwargs["start_ckpt_file_path"] = str(paths[head])
    return build_model(section, "classification", "models.model").eval()


def picture(size: tuple[int, int] = (96, 96)) -> Tensor:
    """A random image, 3xHxW in [0, 1)."""
    return torch.rand(3, *size, generator=torch.Generator().manual_seed(4))
