"""Part `training`: a step of a classifier's stages against torchdistill's box, as published."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import SequentialSampler, TensorDataset
from torchdistill.core.distillation import DistillationBox

from ladon.benchmark.pairing import alternate
from ladon.benchmark.parts import Bench, root
from ladon.benchmark.published import as_published
from ladon.benchmark.results import Row
from ladon.benchmark.workload import CLASSIFICATION, SOURCES, make_model, settle_batch_norm
from ladon.choices import PRECISIONS
from ladon.config import Config, load_config
from ladon.engine.distributed import World
from ladon.engine.hooked import DEFAULT_FORWARD
from ladon.engine.loss_meter import LossMeter
from ladon.engine.plan import LOADERS, build_stage_section, read_plan
from ladon.engine.stage import Stage
from ladon.models import build_model, find_bottleneck, update_bottleneck, use_own_noise
from ladon.modules import moved
from ladon.tasks import TASKS

BATCH, CUDA_BATCH, SIDE = 4, 32, 416
QUICK_BATCH, QUICK_SIDE = 2, 64
_NOISE_SEED = 5


@dataclass
class Setting:
    """Weights that all steps begin with, and a batch that they learn from.

    Attributes:
        config: the classifier's shipped config.
        teacher: in eval mode, contiguous, on the CPU, as is the student.
        student: without CDF tables in the first stage.
        images: random, [N, 3, H, W] float32, on the device.
        targets: labels [N], on the device.
    """

    config: Config
    teacher: nn.Module
    student: nn.Module
    images: Tensor
    targets: Tensor

    @classmethod
    def make(cls, device: torch.device, *, quick: bool) -> Setting:
        """Build models and batch from seeds."""
        config = load_config(root() / SOURCES[CLASSIFICATION].config)
        config.import_dependencies()
        key = "models.teacher_model"
        torch.manual_seed(4)
        teacher = build_model(
            config.build(config.section(key)),
            TASKS[CLASSIFICATION].model_kind,
            key,
            load_weights=False,
        )
        settle_batch_norm(teacher)
        student = make_model(config, CLASSIFICATION, tables=False)
        size = CUDA_BATCH if device.type == "cuda" else BATCH
        size, side = (QUICK_BATCH, QUICK_SIDE) if quick else (size, SIDE)
        generator = torch.Generator().manual_seed(6)
        images = torch.randn(size, 3, side, side, generator=generator).to(device)
        return cls(config, teacher.eval(), student, images, torch.arange(size, device=device))

    @property
    def supp(self) -> list[dict]:
        """The supplementary dicts that torchdistill's loaders add."""
        return [{} for _ in self.images]

    def stages(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield name and section of each stage, the student being as it is then."""
        for plan in read_plan(self.config).stages:
            if plan.number == 2:  # entropy coding begins there
                update_bottleneck(self.student)
            yield plan.name, build_stage_section(self.config, plan)

    def models(self, memory_format: torch.memory_format) -> tuple[nn.Module, nn.Module]:
        """Return copies of teacher and student on the device."""
        device = self.images.device
        teacher, student = (
            moved(copy.deepcopy(model), device, memory_format)
            for model in (self.teacher, self.student)
        )
        return teacher, student


def measure(bench: Bench) -> None:
    """Time a step of each stage; both ways begin with the same weights, images and noise."""
    device = torch.device(bench.device)
    setting = Setting.make(device, quick=bench.quick)
    on_gpu, size = device.type == "cuda", len(setting.images)
    bench.found.facts["batch"] = f"{size} images of {'x'.join(map(str, setting.images.shape[2:]))}"
    repeats = 5 * bench.repeats if on_gpu and not bench.quick else bench.repeats  # steps are short
    for stage, section in setting.stages():
        for precision in PRECISIONS:
            name = f"{stage}, {precision}"
            ours, theirs = OurSteps(setting, section, precision), PublishedSteps(setting, section)
            first = ours(), theirs()
            title = f"{name}: relative difference of first losses"
            bench.found.facts[title] = first[0] / first[1] - 1
            # a GPU's first steps choose algorithms
            pairs = alternate(ours, theirs, repeats, warm_up=on_gpu)
            title = f"training step of {name} against published"
            bench.found.add(pairs.rate(title, size))
            if on_gpu:
                title = f"memory of a step of {name}, models and optimizer apart, against published"
                peaks = ([memory_of_step(steps, device)] for steps in (ours, theirs))
                bench.found.add(Row.of(title, "MiB", *peaks))
            ours.close()
            theirs.close()


def memory_of_step(steps: OurSteps | PublishedSteps, device: torch.device) -> float:
    """Return how many MiB a step holds on a GPU at most, beyond what is there before it."""
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    steps()
    return (torch.cuda.max_memory_allocated(device) - before) / 2**20


class OurSteps:
    """One stage as `ladon.engine.train` steps; each call is a step on the same batch."""

    def __init__(self, setting: Setting, section: Mapping[str, Any], precision: str) -> None:
        self._setting, self._device = setting, setting.images.device
        teacher, student = setting.models(torch.channels_last)
        use_own_noise(student, _NOISE_SEED, self._device)
        self._losses = LossMeter(0.0, 0, self._device)
        world = World(self._device)
        self._stage = Stage(section, student, teacher, 1, world, precision=precision)
        self._stage.begin_epoch()

    def __call__(self) -> float:
        """Take a step; return its loss."""
        stage = self._stage
        batch = self._setting.images, self._setting.targets, self._setting.supp
        loss = stage.student_loss(*batch, stage.teacher_forward(*batch))
        self._losses.add(loss)
        if self._device.type == "cpu":
            self._losses.read()
        stage.step(loss)
        return float(loss.detach())

    def close(self) -> None:
        """Leave the stage."""
        self._stage.close()


class PublishedSteps:
    """One stage as the published script steps torchdistill's box."""

    def __init__(self, setting: Setting, section: Mapping[str, Any]) -> None:
        self._setting = setting
        teacher, student = setting.models(torch.contiguous_format)
        student = as_published(student)
        use_own_noise(student, _NOISE_SEED, setting.images.device)
        self._bottleneck: Any = find_bottleneck(student)
        self._box = _box(section, teacher, student, setting)
        self._box.pre_epoch_process(epoch=0)
        teacher.eval()
        self._box.teacher_model.eval()

    def __call__(self) -> float:
        """Take a step; return its loss."""
        setting = self._setting
        loss = self._box.forward_process(
            setting.images, targets=setting.targets, supp_dict=setting.supp
        )
        if not self._bottleneck.updated:
            self._bottleneck.aux_loss().backward()
        value = loss.item()
        self._box.post_forward_process(loss=loss)
        return value

    def close(self) -> None:
        """Leave the stage."""
        self._box.clean_modules()


def _box(
    given: Mapping[str, Any], teacher: nn.Module, student: nn.Module, setting: Setting
) -> DistillationBox:
    """torchdistill's box for a stage; its loader is there because it must, and is not used."""
    section = copy.deepcopy({key: value for key, value in given.items() if key not in LOADERS})
    section["train_data_loader"] = {
        "dataset_id": "batch",
        "sampler": {"class_or_func": SequentialSampler, "kwargs": None},
        "kwargs": {"batch_size": 1},
    }
    for model in ("teacher", "student"):
        section[model].setdefault("forward_proc", DEFAULT_FORWARD)
    data = {"batch": TensorDataset(setting.images, setting.targets)}
    device = setting.images.device
    return DistillationBox(teacher, student, data, section, device, None, False, 1)
