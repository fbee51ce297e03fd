"""Tiny models in configs and checkpoints of their own, to be used in halves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from three_heads import CHANNELS, ON_LAYER2, saved, sections, single_models

CLASS_NAMES = {
    "classification": [f"kind {n}" for n in range(10)],
    "detection": ["background", "thing 1", "thing 2", "thing 3"],
    "segmentation": ["background", "sky", "sea", "sand", "shade"],
}
_MEAN, _STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


class _Loader(yaml.SafeDumper):
    """Writes torchdistill's tags."""


class Call:
    """A node that is called."""

    def __init__(self, key: str, **kwargs: Any) -> None:
        self.value = {"key": key, "init": {"kwargs": kwargs}}


_Loader.add_representer(
    Call, lambda dumper, call: dumper.represent_mapping("!import_call", call.value)
)


RATES = {"low": 0.32, "high": 20.48}


def write_config(
    path: Path, model: Mapping[str, Any], transforms: list[Any] | None = None, **more: Any
) -> Path:
    """Write a config of one model, whose test data are not there; `more` are other keys."""
    steps = transforms or [
        Call("torchvision.transforms.Resize", size=96),
        Call("torchvision.transforms.CenterCrop", size=96),
        Call("torchvision.transforms.ToTensor"),
        Call("torchvision.transforms.Normalize", mean=_MEAN, std=_STD),
    ]
    content = {
        "datasets": {
            "nowhere": Call(
                "torchvision.datasets.ImageFolder",
                root="./nowhere",
                transform=Call("torchvision.transforms.Compose", transforms=steps),
            )
        },
        "models": {"model": dict(model)},
        "test": {"test_data_loader": {"dataset_id": "nowhere", "kwargs": {"batch_size": 1}}},
        **more,
    }
    path.write_text(yaml.dump(content, Dumper=_Loader, sort_keys=False))
    return path


def write_models(folder: Path, named: bool = True, every_rate: bool = False) -> dict[str, Path]:
    """Write three models around one body; return configs by head, and 'ladon' for all of them.

    Args:
        folder: gets configs and checkpoints.
        named: whether the checkpoints tell their classes' names.
        every_rate: whether the models are for every rate.
    """
    names = CLASS_NAMES if named else {}
    kind: dict[str, Any] = {"segmentation": ON_LAYER2}
    more: dict[str, Any] = {}
    if every_rate:
        widths = {"num_bottleneck_channels": CHANNELS, "num_target_channels": 64}
        kind["bottleneck"] = {"key": "VariableRateBottleneck", "kwargs": {**widths, "beta": RATES}}
        more["beta"] = RATES
    paths = saved(single_models(**kind), folder, names)
    own = sections(**kind)
    for head, section in own.items():
        section["dst_ckpt"] = str(paths[head])
    configs = {
        head: write_config(folder / f"{head}.yaml", section, **more)
        for head, section in own.items()
    }
    ladon: dict[str, Any] = {"key": "ladon", **sections(**kind)}
    ladon["classification"]["src_ckpt"] = str(paths["classification"])
    for head in ("detection", "segmentation"):
        kwargs = ladon[head]["kwargs"]
        kwargs.pop("backbone_config")
        kwargs["start_ckpt_file_path"] = str(paths[head])
    return {**configs, "ladon": write_config(folder / "ladon.yaml", ladon, **more)}


def pixels(height: int = 77, width: int = 120, seed: int = 4) -> np.ndarray:
    """A random image, [H, W, 3] uint8."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
