"""Tiny experiments: the shipped digit-scenes families, cut down to seconds."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from ladon.cli import main

ROOT = Path(__file__).resolve().parents[1]
FAMILIES = ROOT / "configs" / "digit_scenes"
SCRIPTS = {
    "teacher": "image_classification",
    "small": "image_classification",
    "classification": "image_classification",
    "detection": "object_detection",
    "segmentation": "semantic_segmentation",
    "variable": "image_classification",
}
SMALL = "shufflenet_v2_x0_5"
"""The family `small` is the teacher with this model: an epoch takes a fourth of the time."""
CLASSIFIERS = ("classification", "variable")
"""Students; the second one is for every rate."""


class TinyExperiment:
    """A folder with data, configs, checkpoints and logs of tiny runs.

    Args:
        folder: where everything goes but the data.
        data_root: where the digit scenes are.
    """

    def __init__(self, folder: Path, data_root: Path) -> None:
        self.folder, self.data_root = folder, data_root
        self.folder.mkdir(parents=True, exist_ok=True)

    def checkpoint(self, family: str) -> Path:
        return self.folder / "ckpt" / f"{family}.pt"

    def config(self, family: str, name: str | None = None, **values) -> Path:
        """Write a config over a shipped family; `values` are dotted keys with __ for dots."""
        teacher = FAMILIES / "teacher" / "resnet18.yaml"
        base = {
            "teacher": teacher,
            "small": teacher,
            "variable": FAMILIES / "ladon" / "splittable_resnet18-vr_from_resnet18.yaml",
        }.get(family, FAMILIES / "ladon" / "_base_" / f"{family}.yaml")
        student = "student_model" if family in CLASSIFIERS else "model"
        content: dict = {
            "_base_": str(base),
            "data_root": str(self.data_root),
            "models": {student: {"dst_ckpt": str(self.checkpoint(family))}},
        }
        if family == "small":
            content["models"]["model"]["key"] = SMALL
        elif family not in ("teacher", "variable"):
            content["beta"] = 0.32
        if family in CLASSIFIERS:
            start = str(self.checkpoint("teacher"))
            content["models"]["teacher_model"] = {"src_ckpt": start}
            content["models"]["student_model"]["kwargs"] = {
                "org_model_ckpt_file_path_or_url": start
            }
            content["train"] = {"stage1": {"num_epochs": 1}, "stage2": {"num_epochs": 1}}
        else:
            content["train"] = {"num_epochs": 1}
        if family in ("detection", "segmentation"):
            content["backbone_ckpt"] = str(self.checkpoint("classification"))
        for key, value in values.items():
            *path, last = key.split("__")
            section = content
            for part in path:
                section = section.setdefault(part, {})
            section[last] = value
        return self._write(name or family, content)

    def three_headed(self, family: str) -> Path:
        """Write the config of the three-headed model of what was trained, in a family's task."""
        heads = {
            head: {"kwargs": {"start_ckpt_file_path": str(self.checkpoint(head))}}
            for head in ("detection", "segmentation")
        }
        heads["classification"] = {"src_ckpt": str(self.checkpoint("classification"))}
        content = {
            "_base_": str(FAMILIES / "ladon-runtime" / "_base_" / f"{family}.yaml"),
            "data_root": str(self.data_root),
            "beta": 0.32,
            "models": {"model": heads},
        }
        return self._write(f"three_heads_{family}", content)

    def _write(self, name: str, content: dict) -> Path:
        path = self.folder / "configs" / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(content))
        return path

    def run(self, family: str, *flags: str, config: Path | None = None, log: str = "") -> int:
        """Runs the family's task script in this process; returns its exit code."""
        config = config or self.config(family)
        log_file = self.folder / "logs" / f"{log or config.stem}.txt"
        return main(
            SCRIPTS[family],
            ["--config", str(config), "--run_log", str(log_file), "--device", "cpu", *flags],
        )

    def metrics(self, log: str) -> dict:
        return json.loads((self.folder / "logs" / log / "metrics.json").read_text())

    def log(self, log: str) -> str:
        return (self.folder / "logs" / f"{log}.txt").read_text()


Lab = TinyExperiment
"""Its name in scripts that re-create faults outside this repository."""
