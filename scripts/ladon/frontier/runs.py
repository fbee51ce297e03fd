"""The runs of the comparison: each recipe at each budget and seed, on digit scenes of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ladon.sweeps.jobs import Job

CONFIGS = Path("configs/digit_scenes")
DATA, CHECKPOINTS, LOGS = Path("resource/data/frontier"), "resource/ckpt/frontier", "logs/frontier"
NUM_TRAIN, NUM_VAL, STYLE = 2560, 2000, "hard"
"""Scenes; half a point of accuracy on so many is ten of them."""
BETAS = ("0.32", "1.28", "5.12", "10.24", "20.48")
TEACHER_EPOCHS = 16
EPOCHS = 2
"""Of each of a classifier's two stages at budget 1: a third more steps than the demo's."""
BUDGETS = (1, 5)
"""Times `EPOCHS`. Five separate models at 1 cost as much as one model for every rate at 5."""
HEAD_BUDGETS = (5,)
"""Of the bodies that heads are trained on."""
SEPARATE, VARIABLE = "separate", "variable"
_BOTTLENECK = "models.student_model.kwargs.bottleneck_config.kwargs"
_FIRST = (f"{_BOTTLENECK}.rounds=false", f"{_BOTTLENECK}.modulated=[output]")
FIRST = "noise"
VARIANTS = {
    FIRST: _FIRST,
    "noise, one-step": (*_FIRST, f"{_BOTTLENECK}.per_channel=false"),
    "noise, untold-decoder": (_FIRST[0], f"{_BOTTLENECK}.modulated=[]"),
    "noise, five-priors": (*_FIRST, f"{_BOTTLENECK}.priors=5"),
    "noise, raw-loss": (*_FIRST, "train.stage1.criterion.kwargs.normalised=false"),
    "noise, one-rate-stage2": (*_FIRST, f"{_BOTTLENECK}.draws_rounded=false"),
}
"""Recipes of the one model with parts changed, and the settings that do it.

The first one's decoder learns from noisy latents, and is told the rate behind its last layer alone;
each of the others has one part less than that.
"""
_VARIABLE = {
    "classification": "splittable_resnet18-vr_from_resnet18.yaml",
    "detection": "faster_rcnn_splittable_resnet18-vr_fpn.yaml",
    "segmentation": "deeplabv3_splittable_resnet18-vr.yaml",
}
_HEADS = {
    "detection": ("train.num_epochs=3", "train.train_data_loader.kwargs.batch_size=16"),
    "segmentation": ("train.num_epochs=4",),
}
"""Whatever the classifier's budget: half more steps than the demo's."""


@dataclass(frozen=True)
class Trial:
    """One training of the comparison.

    Attributes:
        task: its name.
        recipe: `SEPARATE`, `VARIABLE` or one of `VARIANTS`.
        budget: one of `BUDGETS`.
        seed: of the training.
        beta: of a separate model, else ''.
    """

    task: str
    recipe: str
    budget: int
    seed: int
    beta: str = ""

    @property
    def name(self) -> str:
        """What its files are called."""
        beta = f"-beta{self.beta}" if self.beta else ""
        recipe = self.recipe.replace(", ", "-")
        return f"{self.task}-{recipe}-x{self.budget}{beta}-seed{self.seed}"

    @property
    def checkpoint(self) -> str:
        """Its checkpoint."""
        return f"{CHECKPOINTS}/{self.name}.pt"

    def job(self, needs: Job) -> Job:
        """Return its run.

        Args:
            needs: the teacher's run, or of a head the classifier's.
        """
        config = f"_base_/{self.task}.yaml" if self.beta else _VARIABLE[self.task]
        if self.task == "classification":
            student = "models.student_model"
            settings = [
                f"models.teacher_model.src_ckpt={needs.checkpoint}",
                f"{student}.kwargs.org_model_ckpt_file_path_or_url={needs.checkpoint}",
                *(f"train.{s}.num_epochs={EPOCHS * self.budget}" for s in ("stage1", "stage2")),
                # to keep an epoch for its score on the scenes of the test would flatter it
                "train.stage2.val_data_loader=null",
            ]
            settings += VARIANTS.get(self.recipe, ())
        else:
            student = "models.model"
            settings = [f"backbone_ckpt={needs.checkpoint}", *_HEADS[self.task]]
        settings.append(f"{student}.dst_ckpt={self.checkpoint}")
        settings += [f"beta={self.beta}"] if self.beta else []
        return Job(
            self.name,
            self.task,
            CONFIGS / "ladon" / config,
            needs=(needs,),
            flags=(*_flags(self.seed), "-student_only", *_set(settings)),
            run_log=f"{LOGS}/{self.name}.txt",
        )


def _flags(seed: int) -> tuple[str, ...]:
    return "--data_root", str(DATA), "--seed", str(seed)


def _set(settings: Iterable[str]) -> Iterator[str]:
    for setting in settings:
        yield from ("--set", setting)


def teacher_job() -> Job:
    """Return the run of the one teacher of all."""
    settings = _set(
        [
            f"models.model.dst_ckpt={CHECKPOINTS}/teacher.pt",
            f"train.num_epochs={TEACHER_EPOCHS}",
        ]
    )
    return Job(
        "teacher",
        "classification",
        CONFIGS / "teacher" / "resnet18.yaml",
        flags=(*_flags(0), *settings),
        run_log=f"{LOGS}/teacher.txt",
    )


def trials(tasks: Iterable[str], seeds: Sequence[int]) -> list[Trial]:
    """Return all trainings of the comparison, task by task."""
    found: list[Trial] = []
    for task in tasks:
        for seed in seeds:
            for budget in BUDGETS if task == "classification" else HEAD_BUDGETS:
                found.append(Trial(task, VARIABLE, budget, seed))
                found += [Trial(task, SEPARATE, budget, seed, beta) for beta in BETAS]
    return found


def ablations(seeds: Iterable[int]) -> list[Trial]:
    """Return the trainings that say what a part of the one model is worth."""
    return [
        Trial("classification", recipe, BUDGETS[-1], seed) for seed in seeds for recipe in VARIANTS
    ]


def jobs(asked: Iterable[Trial], done: Iterable[Trial]) -> dict[Trial, Job]:
    """Return the runs of trainings, with those that they stand on.

    Args:
        asked: trainings whose results are wanted.
        done: those whose results are there: they are not made again, unless another one stands on
            their checkpoint, and that is gone.
    """
    made: dict[Trial, Job] = {}
    teacher = teacher_job()
    finished = set(done)
    for trial in asked:
        if trial in finished:
            continue
        needs = teacher
        if trial.task != "classification":
            below = Trial("classification", trial.recipe, trial.budget, trial.seed, trial.beta)
            needs = made.setdefault(below, below.job(teacher))
        made[trial] = trial.job(needs)
    return made
