"""Part `training`: a step of a classifier's stages against torchdistill's box, as published."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import SequentialSampler, TensorDataset
from torchdistill.core.distillation import DistillationBox

from ladon.benchmark.pairing import alternate
from ladon.benchmark.parts import ROOT, Bench
from ladon.benchmark.results import PartResult
from ladon.benchmark.workload import CONFIGS, make_model, settle_batch_norm
from ladon.choices import PRECISIONS
from ladon.config import Config, load_config
from ladon.engine.distributed import World
from ladon.engine.hooked import DEFAULT_FORWARD
from ladon.engine.losses import LossRecord
from ladon.engine.plan import LOADERS, build_stage_section, read_plan
from ladon.engine.stage import Stage
from ladon.models import build_model, find_bottleneck, update_bottleneck, use_own_noise

BATCH, SIDE = 4, 416
QUICK_BATCH, QUICK_SIDE = 2, 64
_TASK = "image_classification"
_NOISE_SEED = 5


@dataclass
class Batch:
    """Random images [N, 3, H, W] float32 and labels [N], on the device."""

    images: Tensor
    targets: Tensor

    @property
    def supp(self) -> list[dict]:
        """The supplementary dicts that torchdistill's loaders add."""
        return [{} for _ in self.images]


@dataclass
class Models:
    """One way's own teacher and student."""

    teacher: nn.Module
    student: nn.Module

    @classmethod
    def make(cls, config: Config) -> Models:
        """Random weights from one seed, contiguous, without CDF tables."""
        key = "models.teacher_model"
        torch.manual_seed(4)
        teacher = build_model(config.build(config.section(key)), _TASK, key, replaced=True)
        settle_batch_norm(teacher)
        return cls(teacher.eval(), make_model(config, _TASK, tables=False))

    def to(self, device: torch.device, memory_format: torch.memory_format) -> Models:
        """A copy on the device."""
        return Models(
            *(
                copy.deepcopy(model).to(device, memory_format=memory_format)
                for model in (self.teacher, self.student)
            )
        )


def measure(bench: Bench) -> PartResult:
    """Times a step of each stage; both ways begin with the same weights, images and noise."""
    config = load_config(ROOT / CONFIGS[_TASK])
    config.import_dependencies()
    device = torch.device(bench.device)
    size, side = (QUICK_BATCH, QUICK_SIDE) if bench.quick else (BATCH, SIDE)
    generator = torch.Generator().manual_seed(6)
    batch = Batch(
        torch.randn(size, 3, side, side, generator=generator).to(device),
        torch.arange(size, device=device),
    )
    models = Models.make(config)
    found = PartResult(facts={"batch": f"{size} images of {side}x{side}"})
    for plan in read_plan(config).stages:
        if plan.number == 2:  # entropy coding begins there
            update_bottleneck(models.student)
        section = build_stage_section(config, plan)
        for precision in PRECISIONS:
            steps = _Steps(section, models, batch, device, precision)
            first = steps.ours(), steps.published()
            pairs = alternate(steps.ours, steps.published, bench.repeats, warm_up=False)
            steps.close()
            name = f"{plan.name}, {precision}"
            found.facts[f"{name}: relative difference of first losses"] = first[0] / first[1] - 1
            title = f"training step of {name} against published"
            found.measurements.append(pairs.rate(title, size, "images/s"))
    return found


class _Steps:
    """One stage, set up both ways; each call is a step on the same batch and returns the loss."""

    def __init__(
        self,
        section: Mapping[str, Any],
        models: Models,
        batch: Batch,
        device: torch.device,
        precision: str,
    ) -> None:
        ours = models.to(device, torch.channels_last)
        theirs = models.to(device, torch.contiguous_format)
        for way in (ours, theirs):
            use_own_noise(way.student, _NOISE_SEED, device)
        self._batch, self._theirs, self._device = batch, theirs, device
        self._losses = LossRecord(0.0, 0, device)
        world = World(device)
        self._stage = Stage(section, ours.student, ours.teacher, 1, world, precision=precision)
        self._stage.begin_epoch()
        self._box = _box(section, theirs, batch, device)
        self._box.pre_epoch_process(epoch=0)
        theirs.teacher.eval()
        self._box.teacher_model.eval()
        self._synchronize: Callable[[], None] = (
            torch.cuda.synchronize if device.type == "cuda" else lambda: None
        )

    def ours(self) -> float:
        """As `ladon.engine.train` steps."""
        stage, batch = self._stage, self._batch
        teacher_io = stage.teacher_forward(batch.images, batch.targets, batch.supp)
        loss = stage.student_loss(batch.images, batch.targets, batch.supp, teacher_io)
        self._losses.add(loss)
        if self._device.type == "cpu":
            self._losses.read()
        stage.step(loss)
        self._synchronize()
        return float(loss.detach())

    def published(self) -> float:
        """As the published script steps torchdistill's box."""
        batch, bottleneck = self._batch, find_bottleneck(self._theirs.student)
        loss = self._box.forward_process(batch.images, targets=batch.targets, supp_dict=batch.supp)
        if not bottleneck.updated:
            bottleneck.aux_loss().backward()
        value = loss.item()
        self._box.post_forward_process(loss=loss)
        self._synchronize()
        return value

    def close(self) -> None:
        """Leaves the models to the next stage."""
        self._stage.close()
        self._box.clean_modules()


def _box(
    section: Mapping[str, Any], models: Models, batch: Batch, device: torch.device
) -> DistillationBox:
    """torchdistill's box for a stage; its loader is there because it must, and is not used."""
    section = copy.deepcopy({key: value for key, value in section.items() if key not in LOADERS})
    section["train_data_loader"] = {
        "dataset_id": "batch",
        "sampler": {"class_or_func": SequentialSampler, "kwargs": None},
        "kwargs": {"batch_size": 1},
    }
    for model in ("teacher", "student"):
        section[model].setdefault("forward_proc", DEFAULT_FORWARD)
    data = {"batch": TensorDataset(batch.images, batch.targets)}
    return DistillationBox(models.teacher, models.student, data, section, device, None, False, 1)
