"""The test of a run, with which a training ends, too, and the file that keeps what it found."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ladon.analysing import analyst, check_analysis, write_analysis
from ladon.backbones import backbone_name
from ladon.data.fast_input import use_fast_input
from ladon.data.transforms import without_normalization
from ladon.engine.classes import Classes
from ladon.engine.deterministic import arithmetic
from ladon.engine.evaluate import evaluate_all
from ladon.engine.evaluation import Evaluation
from ladon.engine.origin import package_versions
from ladon.engine.plan import TEACHER
from ladon.engine.run import Run
from ladon.errors import ConfigError, Interrupted, LadonError
from ladon.models import update_bottleneck
from ladon.models.ladon import ThreeHeadedLadon
from ladon.predictions import check_predictions, predictor, write_predictions
from ladon.replacing import write_json
from ladon.replay import record, test_flags

logger = logging.getLogger(__name__)


@dataclass
class FinalEvaluation:
    """The test at the end of a run.

    Attributes:
        loader: the section of its data loader, built.
        dataset: the samples.
    """

    loader: dict[str, Any]
    dataset: Any

    @classmethod
    def open(cls, run: Run) -> FinalEvaluation:
        """Build the test set; before a training, so that what it lacks is known.

        Raises:
            ConfigError: if the config names none.
            DataError: if it cannot be used.
            UsageError: if what is found on it cannot be written as asked.
        """
        check_predictions(run)
        check_analysis(run)
        loader = run.config.build(run.config.section("test.test_data_loader"))
        if not loader:
            raise ConfigError(
                f"{run.config.path}: has no test.test_data_loader: nothing to test on"
            )
        # before a training nothing tells what its labels are to mean
        return cls(loader, run.build_dataset(loader["dataset_id"]))

    def prepare(self, run: Run, classes: Classes, students: Sequence[nn.Module]) -> None:
        """Bring samples and students into the form in which they are tested.

        Args:
            run: what the samples are to be like.
            classes: what their labels are to mean.
            students: those that will be tested on it.

        Raises:
            DataError: if its classes are not the students'.
        """
        classes.hold(self.dataset)
        classes.doubt(self.dataset)
        if any(isinstance(student, ThreeHeadedLadon) for student in students):
            without_normalization(self.dataset)
        if run.setting("input", "test", "reference") == "fast":
            use_fast_input(self.dataset)
        for student in students:  # a checkpoint of the early epochs has no CDF tables yet
            update_bottleneck(student)

    def evaluate(self, run: Run, models: Sequence[nn.Module]) -> list[Evaluation]:
        """Test models, each image loaded once for all of them.

        Raises:
            Interrupted: after a signal.
        """
        found = evaluate_all(
            models,
            self.dataset,
            self.loader,
            run.task,
            run.world,
            run.stop,
            options=run.options,
            mode=run.setting("evaluation", "test", "full"),
            precision=run.setting("precision", "test", "float32"),
            compiled=run.setting("compile", "test", False),
            describe=predictor(run, self.dataset),
            analyst=analyst(run, self.dataset),
            rates=run.setting("rates", "test", ()),
        )
        if found is None:
            signum = run.world.maximum(run.stop.signum)
            raise Interrupted(signum, "interrupted during the test; run it again with -test_only")
        return found


def announce(run: Run, role: str) -> None:
    """Log whose test begins, or whose results follow: the teacher's or the student's."""
    key = TEACHER if role == "teacher" else run.student_key
    logger.info("[%s: %s]", role.capitalize(), run.config.get(f"{key}.key"))


def write_results(
    run: Run, dataset: Any, results: Mapping[str, Evaluation], startup_seconds: float | None
) -> None:
    """Write `metrics.json`, and the student's predictions where they are asked for.

    Args:
        run: the run.
        dataset: the test set.
        results: by role, 'teacher' or 'student'.
        startup_seconds: from the start of the process to its first batch, if known.
    """
    if not run.world.is_main:
        return
    config, section = run.config, run.student_section
    is_training = not run.args.test_only
    content = {
        "format": 1,
        "task": run.task.name,
        "mode": "train" if is_training else "test",
        "config": str(config.path),
        "name": config.name or section.get("experiment"),
        "dataset": config.get("test.test_data_loader.dataset_id"),
        "beta": config.beta,
        "backbone": backbone_name(section),
        "key_metric": run.task.decisive.key,
        "shown": run.task.view.as_plain(),
        "num_images": results["student"].num_images,
        "classes": run.classes.names,
        "finished": time.strftime("%Y-%m-%d %H:%M:%S"),
        **({"fused_with": list(run.fused_with)} if run.beta is not None else {}),
        **({"skipped": run.bad_samples.summary()} if run.skips_bad and is_training else {}),
        **({} if startup_seconds is None else {"startup_s": round(startup_seconds, 3)}),
        "models": {role: found.summary() for role, found in results.items()},
        "replay": _replay(run, results),
    }
    write_json(run.folder / "metrics.json", content)
    run.journal.results(content)
    logger.info("Results: %s", run.folder / "metrics.json")
    write_predictions(run, dataset, results["student"])
    write_analysis(run, dataset, results["student"])
    run.journal.close()


def _replay(run: Run, roles: Iterable[str]) -> dict[str, Any]:
    """Return what `ladon verify` repeats the test by.

    Raises:
        LadonError: a checkpoint is gone.
    """
    settings = {
        "evaluation": run.setting("evaluation", "test", "full"),
        "precision": run.setting("precision", "test", "float32"),
        "input": run.setting("input", "test", "reference"),
        "compile": run.setting("compile", "test", False),
        "rates": list(run.setting("rates", "test", ())) or None,
    }
    around: dict[str, Any] = {"task": run.script, "device": str(run.world.device)}
    around |= {**arithmetic(), "packages": package_versions()}
    flags = test_flags(run.task, run.args, settings, str(run.world.device))
    files = [file for role in roles for file in run.tested_files.get(role, ())]
    try:
        return record(run.folder, flags, files, around)
    except OSError as error:
        raise LadonError(f"{error.filename}: is gone: {error.strerror}") from error
