"""Digit scenes with a backbone of another family: the shipped recipes, changed by YAML only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages import squared_error
from tiny import TinyExperiment


@dataclass(frozen=True)
class Network:
    """A member of a family as a config names it.

    Attributes:
        module: registers the member or its family.
        member: its name; also the teacher's key.
        key, argument: of the splittable model.
        channels: of the four stages.
        paths: of the four stages in the teacher.
        whole: of what holds them in the teacher, in the order they run.
    """

    module: str
    member: str
    key: str
    argument: str
    channels: tuple[int, ...]
    paths: tuple[str, ...]
    whole: tuple[str, ...]


STAGES = ("bottleneck_layer", "stage2", "stage3", "stage4")


class BackboneLab:
    """A lab's configs for a network.

    Args:
        lab: where they and what they make are.
        network: the backbone.
    """

    def __init__(self, lab: TinyExperiment, network: Network) -> None:
        self.lab, self.network = lab, network
        for family in ("teacher", "classification"):
            lab.checkpoint(family).unlink(missing_ok=True)  # of another backbone
        modules = ("ladon.data", "sc2bench.loss", network.module)
        self.common = {"dependencies": [{"name": name} for name in modules]}

    def student(self, **more: Any) -> dict[str, Any]:
        """Arguments of the splittable model."""
        widths = {"num_bottleneck_channels": 8, "num_target_channels": self.network.channels[0]}
        return {
            self.network.argument: self.network.member,
            "num_classes": 10,
            "bottleneck_config": {"key": "FPBasedResNetBottleneck", "kwargs": widths},
            **more,
        }

    def body(self) -> dict[str, Any]:
        """The backbone of a detector or segmenter, with the classifier's weights."""
        weights = str(self.lab.checkpoint("classification"))
        kwargs = {"_delete_": True, **self.student()}
        return {"key": self.network.key, "kwargs": kwargs, "src_ckpt": weights}

    def config(self, family: str) -> Path:
        """Write the config of `teacher`, `classification`, `detection` or `segmentation`."""
        return getattr(self, f"_{family}")()

    def _teacher(self) -> Path:
        named = {"models__model__key": self.network.member, "train__num_epochs": 1}
        return self.lab.config("teacher", **self.common, **named)

    def _classification(self) -> Path:
        paths = self.network.paths
        pairs = zip(STAGES, paths, strict=True)
        terms = {own: squared_error(own, teachers) for own, teachers in pairs}
        coded = "bottleneck_layer.entropy_bottleneck"
        bpp = {"key": "BppLoss", "kwargs": {"entropy_module_path": coded, "reduction": "sum"}}
        stage1 = {
            "num_epochs": 1,
            "teacher": {
                "sequential": list(self.network.whole),
                "forward_hook": {"output": list(paths)},
            },
            "student": {
                "sequential": list(STAGES),
                "frozen_modules": list(STAGES[1:]),
                "forward_hook": {"output": [*STAGES, coded]},
            },
            "criterion": {
                "kwargs": {
                    "sub_terms": {
                        "_delete_": True,
                        **terms,
                        "bpp": {"criterion": bpp, "weight": "${beta}"},
                    }
                }
            },
        }
        teacher = str(self.lab.checkpoint("teacher"))
        whole = {"skips_avgpool": False, "skips_fc": False}
        return self.lab.config(
            "classification",
            name=f"splittable_{self.network.member}-fp-beta0.32",
            **self.common,
            models__teacher_model__key=self.network.member,
            models__student_model__key=self.network.key,
            models__student_model__kwargs={
                "_delete_": True,
                **self.student(**whole, org_model_ckpt_file_path_or_url=teacher),
            },
            train__stage1=stage1,
        )

    def _detection(self) -> Path:
        return self.lab.config(
            "detection",
            **self.common,
            models__model__kwargs={
                "backbone_config": self.body(),
                "rpn_anchor_generator": None,  # torchvision's, as in the three-headed model
                # parts and channels follow from the backbone
                "backbone_fpn_kwargs": {
                    "_delete_": True,
                    "out_channels": 32,
                    "analyzable_layer_key": "bottleneck_layer",
                },
            },
        )

    def _segmentation(self) -> Path:
        return self.lab.config(
            "segmentation",
            **self.common,
            models__model__kwargs={
                "backbone_config": self.body(),
                "return_layer_dict": None,
                "num_input_channels": None,
                "num_aux_channels": None,
            },
        )

    def three_headed(self) -> Path:
        """Write the config of the three-headed model of what the others trained."""
        whole = self.student(skips_avgpool=False, skips_fc=False)
        section = {
            "_delete_": True,
            "key": "ladon",
            "classification": {
                "key": self.network.key,
                "kwargs": whole,
                "src_ckpt": str(self.lab.checkpoint("classification")),
            },
            "detection": {
                "key": "faster_rcnn_model",
                "kwargs": {
                    "num_classes": 11,
                    "min_size": 96,
                    "max_size": 96,
                    "backbone_fpn_kwargs": {"out_channels": 32},
                    "start_ckpt_file_path": str(self.lab.checkpoint("detection")),
                },
            },
            "segmentation": {
                "key": "deeplabv3_model",
                "kwargs": {
                    "num_classes": 11,
                    "uses_aux": True,
                    "start_ckpt_file_path": str(self.lab.checkpoint("segmentation")),
                },
            },
        }
        return self.lab.config(
            "teacher", name="ladon", **self.common, beta=0.32, models={"model": section}
        )
