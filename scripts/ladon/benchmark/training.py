"""Part `training`: a step of a classifier's stages against torchdistill's box, as published."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import SequentialSampler, TensorDataset
from torchdistill.core.distillation import DistillationBox

from ladon.benchmark.machine import clock_of, peak_device_mib, reset_peak
from ladon.benchmark.pairing import against, alternate
from ladon.benchmark.parts import Bench, root
from ladon.benchmark.published import as_published
from ladon.benchmark.results import PartResult
from ladon.benchmark.workload import SOURCES, make_model, settle_batch_norm
from ladon.choices import PRECISIONS
from ladon.config import Config, load_config
from ladon.engine.distributed import World
from ladon.engine.hooked import DEFAULT_FORWARD
from ladon.engine.loss_meter import LossMeter
from ladon.engine.plan import LOADERS, build_stage_section, read_plan
from ladon.engine.stage import Stage
from ladon.models import build_model, find_bottleneck, update_bottleneck, use_own_noise
from ladon.tasks import TASKS

BATCH, CUDA_BATCH, SIDE = 4, 32, 416
QUICK_BATCH, QUICK_SIDE = 2, 64
_TASK = "image_classification"
_NOISE_SEED = 5
ACCUMULATED = 2


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
        teacher = build_model(
            config.build(config.section(key)), TASKS[_TASK].model_kind, key, replaced=True
        )
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


@dataclass
class Setting:
    """What the steps are taken on.

    Attributes:
        config: the classifier's shipped config.
        models: the weights that all steps begin with.
        batch: what they learn from.
        device: where.
    """

    config: Config
    models: Models
    batch: Batch
    device: torch.device

    @classmethod
    def make(cls, bench: Bench) -> Setting:
        """Everything follows from seeds."""
        config = load_config(root() / SOURCES[_TASK].config)
        config.import_dependencies()
        device = torch.device(bench.device)
        size = CUDA_BATCH if device.type == "cuda" else BATCH
        size, side = (QUICK_BATCH, QUICK_SIDE) if bench.quick else (size, SIDE)
        generator = torch.Generator().manual_seed(6)
        batch = Batch(
            torch.randn(size, 3, side, side, generator=generator).to(device),
            torch.arange(size, device=device),
        )
        return cls(config, Models.make(config), batch, device)

    def stages(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yields name and section of each stage, the models being as they are then."""
        for plan in read_plan(self.config).stages:
            if plan.number == 2:  # entropy coding begins there
                update_bottleneck(self.models.student)
            yield plan.name, build_stage_section(self.config, plan)

    @property
    def facts(self) -> dict[str, Any]:
        """Says what a batch is."""
        size, _, *sides = self.batch.images.shape
        return {"batch": f"{size} images of {'x'.join(map(str, sides))}"}

    def repeats(self, bench: Bench) -> int:
        """Steps that are timed: a GPU's are short."""
        return bench.repeats if self.device.type == "cpu" or bench.quick else 5 * bench.repeats


def measure(bench: Bench) -> PartResult:
    """Times a step of each stage; both ways begin with the same weights, images and noise."""
    setting = Setting.make(bench)
    found = bench.begin(**setting.facts)
    for name, section in setting.stages():
        for precision in PRECISIONS:
            _against_published(bench, setting, section, f"{name}, {precision}", precision, found)
        _accumulated(bench, setting, section, name, found)
    return found


def _against_published(
    bench: Bench,
    setting: Setting,
    section: Mapping[str, Any],
    name: str,
    precision: str,
    found: PartResult,
) -> None:
    device, size = setting.device, len(setting.batch.images)
    ours, theirs = OurSteps(setting, section, precision), PublishedSteps(setting, section)
    first = ours(), theirs()
    pairs = alternate(
        ours,
        theirs,
        setting.repeats(bench),
        warm_up=device.type == "cuda",  # a GPU's first steps choose algorithms
        clock=clock_of(device),
    )
    found.facts[f"{name}: relative difference of first losses"] = first[0] / first[1] - 1
    title = f"training step of {name} against published"
    found.measurements.append(pairs.rate(title, size, "images/s"))
    if device.type == "cuda":
        peaks = [[memory_of_step(way, device)] for way in (ours, theirs)]
        title = f"memory of a step of {name}, models and optimizer apart, against published"
        found.measurements.append(against("MiB", title, *peaks))
    ours.close()
    theirs.close()


def memory_of_step(step: Callable[[], Any], device: torch.device) -> float:
    """Returns how many MiB a step holds on a GPU at most, beyond what is there before it."""
    before = torch.cuda.memory_allocated(device) / 2**20
    reset_peak(device)
    step()
    return peak_device_mib(device) - before


def _accumulated(
    bench: Bench,
    setting: Setting,
    section: Mapping[str, Any],
    name: str,
    found: PartResult,
) -> None:
    """What it costs to gather gradients over several batches before the optimizer's step."""
    optimizer = dict(section["optimizer"]) | {"grad_accum_step": ACCUMULATED}
    gathering = OurSteps(setting, dict(section) | {"optimizer": optimizer}, "float32")
    plain = OurSteps(setting, dict(section), "float32")
    pairs = alternate(gathering, plain, setting.repeats(bench), clock=clock_of(setting.device))
    title = f"training step of {name}, float32: grad_accum_step {ACCUMULATED} against 1"
    found.measurements.append(pairs.rate(title, len(setting.batch.images), "images/s"))
    gathering.close()
    plain.close()


class OurSteps:
    """One stage as `ladon.engine.train` steps; each call is a step on the same batch."""

    def __init__(
        self,
        setting: Setting,
        section: Mapping[str, Any],
        precision: str,
        *,
        compiled: bool = False,
    ) -> None:
        self._batch, self._device = setting.batch, setting.device
        models = setting.models.to(self._device, torch.channels_last)
        use_own_noise(models.student, _NOISE_SEED, self._device)
        self._losses = LossMeter(0.0, 0, self._device)
        self._stage = Stage(
            *(section, models.student, models.teacher, 1, World(self._device)),
            precision=precision,
            compile_layers=compiled,
        )
        self._stage.begin_epoch()

    def __call__(self) -> float:
        """Takes a step; returns its loss."""
        stage, batch = self._stage, self._batch
        teacher_io = stage.teacher_forward(batch.images, batch.targets, batch.supp)
        loss = stage.student_loss(batch.images, batch.targets, batch.supp, teacher_io)
        self._losses.add(loss)
        if self._device.type == "cpu":
            self._losses.read()
        stage.step(loss)
        return float(loss.detach())

    def close(self) -> None:
        """Leaves the stage."""
        self._stage.close()


class PublishedSteps:
    """One stage as the published script steps torchdistill's box."""

    def __init__(self, setting: Setting, section: Mapping[str, Any]) -> None:
        self._batch, device = setting.batch, setting.device
        models = setting.models.to(device, torch.contiguous_format)
        models.student = as_published(models.student)
        use_own_noise(models.student, _NOISE_SEED, device)
        self._bottleneck = find_bottleneck(models.student)
        self._box = _box(section, models, self._batch, device)
        self._box.pre_epoch_process(epoch=0)
        models.teacher.eval()
        self._box.teacher_model.eval()

    def __call__(self) -> float:
        """Takes a step; returns its loss."""
        batch = self._batch
        loss = self._box.forward_process(batch.images, targets=batch.targets, supp_dict=batch.supp)
        if not self._bottleneck.updated:
            self._bottleneck.aux_loss().backward()
        value = loss.item()
        self._box.post_forward_process(loss=loss)
        return value

    def close(self) -> None:
        """Leaves the stage."""
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
