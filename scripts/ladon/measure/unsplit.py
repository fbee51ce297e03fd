"""Models as a server runs them on a picture: nothing of them is on the device."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from ladon.edge.fitting import Fitting
from ladon.engine.plan import TEACHER
from ladon.models import forget_tables
from ladon.models.inference import inference
from ladon.models.precision import forward_only
from ladon.run_models import build_student, build_teacher
from ladon.split.inputs import fitting_of
from ladon.split.loading import open_run


class Unsplit:
    """A model for one task, run whole.

    A context manager: the model is made fast for evaluation until `close`.

    Attributes:
        head: 'classification', 'detection' or 'segmentation'.
        name: what it is, for people.
        network: the model.

    Args:
        head: see above.
        network: in eval mode.
        fitting: of its test, of which the normalisation is taken.
        name: see above.
    """

    def __init__(self, head: str, network: nn.Module, fitting: Fitting, name: str) -> None:
        self.head, self.network, self.name = head, network, name
        self._fitting = fitting
        self._takes_lists = isinstance(
            getattr(network, "transform", None), GeneralizedRCNNTransform
        )
        self._stack = ExitStack()
        self._stack.enter_context(inference(network, "full"))

    @classmethod
    def load(
        cls, source: str | os.PathLike, *, assignments: Sequence[str] = (), data_root: str | None
    ) -> Unsplit:
        """Load the teacher of a single-task model; that model itself where it has none.

        A model that itself has a bottleneck runs with its quantised latent, and codes nothing.

        Args:
            source: config of the single-task model.
            assignments, data_root: as for `ladon.load`.

        Raises:
            ConfigError: the config cannot be used.
            CheckpointError: weights are missing or do not fit.
        """
        run, kind = open_run(source, assignments=assignments, data_root=data_root)
        has_teacher = TEACHER in run.config
        network = build_teacher(run) if has_teacher else build_student(run).eval()
        forget_tables(network)
        section = run.config.section(TEACHER if has_teacher else run.student_key)
        what = section["key"] if has_teacher else f"{section['key']} with its bottleneck"
        return cls(kind, network, fitting_of(run.config, network), what)

    def close(self) -> None:
        """Leave the model as it was before."""
        self._stack.close()

    def __call__(self, values: Tensor) -> Any:
        """Return what a metric of its task takes.

        Args:
            values: [3, H, W] float32 in 0..1.
        """
        with forward_only(values.device):
            if self._takes_lists:
                return self.network([values])
            outputs = self.network(normalized(values, self._fitting)[None])
        return outputs["out"] if isinstance(outputs, Mapping) else outputs


def normalized(values: Tensor, fitting: Fitting) -> Tensor:
    """Return values [3, H, W] in 0..1 as a fitting normalises them."""
    if fitting.mean is None or fitting.std is None:
        return values
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (fitting.mean, fitting.std))
    return (values - mean) / std
