"""Several runs in one process: what is each one's own, and what they must agree on."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ladon.engine.hooked import paths_read_of_teacher
from ladon.errors import Interrupted, LadonError, UsageError
from ladon.logs import concerning

if TYPE_CHECKING:
    from ladon.config import Config

logger = logging.getLogger(__name__)

_TESTED = (
    *("test.test_data_loader", "test.evaluation", "test.precision", "test.compile"),
    *("test.input", "models.model.key", "models.model.kwargs.num_classes"),
)
# β's weights, the optimizers and their schedules may differ: every student has its own
_TRAINED = ("num_epochs", "train_data_loader", "val_data_loader", "teacher", "criterion")
_TRAIN = ("train.log_freq", "train.epoch_to_update", "train.precision", "train.compile")


@dataclass
class Member:
    """A run among those that share this process.

    Attributes:
        beta: its β as the user typed it; None if it is the only run.
        others: the β that it shares the process with.
        error: what ended it.
    """

    beta: str | None = None
    others: tuple[str, ...] = ()
    error: LadonError | None = None

    @property
    def is_alone(self) -> bool:
        """Whether it is the only run of this process."""
        return self.beta is None

    @contextmanager
    def own(self) -> Iterator[None]:
        """What happens within concerns this run: its log's lines, and its end if it fails.

        A signal concerns all runs, and so does every error if there is but one.
        """
        with concerning(self.beta):
            try:
                yield
            except LadonError as error:
                if self.is_alone or isinstance(error, Interrupted):
                    raise
                logger.error("%s", error)
                self.error = error


def check_agreement(configs: dict[str, Config], *, test_only: bool) -> None:
    """Compares what runs share when their data is loaded once.

    Args:
        configs: by β.
        test_only: nothing is trained.

    Raises:
        UsageError: names the first key that differs, and where.
    """
    (beta, first), *others = configs.items()
    for other_beta, other in others:
        for key in _shared_keys([first, other], test_only):
            if _value(first, key) != _value(other, key):
                raise UsageError(
                    f"--fused: {key} differs between β {beta} ({first.where(key)}) and β "
                    f"{other_beta} ({other.where(key)}), but the runs would share it; leave out "
                    "--fused to run them one by one"
                )
    if not test_only:
        _check_own_checkpoints(configs)


def _value(config: Config, key: str) -> Any:
    """What must be equal: a key's resolved text, of a criterion only what it reads of a teacher."""
    if key.endswith(".criterion"):
        return paths_read_of_teacher(config.section(key))
    return config.dump(key)


def _shared_keys(configs: Sequence[Config], test_only: bool) -> list[str]:
    keys = list(_TESTED)
    if not test_only:
        stages = [
            f"train.{name}" if str(name).startswith("stage") else "train"
            for config in configs
            for name in config.section("train")
        ]
        keys += [f"{stage}.{name}" for stage in dict.fromkeys(stages) for name in _TRAINED]
        keys += [*_TRAIN, "models.teacher_model"]
    loaders = [key for key in keys if key.endswith("data_loader")]
    ids = [config.get(f"{key}.dataset_id") for key in loaders for config in configs]
    return keys + [f"datasets.{name}" for name in dict.fromkeys(ids) if name is not None]


def _check_own_checkpoints(configs: dict[str, Config]) -> None:
    """Refuses two students with one place for their best checkpoint."""
    taken: dict[str, str] = {}
    for beta, config in configs.items():
        for key in ("models.student_model.dst_ckpt", "models.model.dst_ckpt"):
            path = config.get(key)
            if path is not None and taken.setdefault(path, beta) != beta:
                raise UsageError(
                    f"--fused: {key} is {path} for β {taken[path]} and β {beta} "
                    f"({config.where(key)}): each needs its own"
                )
