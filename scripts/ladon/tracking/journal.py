"""The journal of a run: everything that is logged of it goes to each of its sinks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class Sink:
    """Listens to a run; this one does nothing with what it hears."""

    def begin(self, epoch: int) -> None:
        """Hear that a training begins, or goes on, with an epoch: later ones are trained again."""

    def step(self, values: Mapping[str, float], step: int) -> None:
        """Hear of a step of the training, counted over all epochs."""

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Hear of an epoch: what `metrics.jsonl` has of it."""

    def results(self, content: Mapping[str, Any]) -> None:
        """Hear of the final test: what `metrics.json` has of it."""

    def close(self) -> None:
        """Write what is left; the run may have failed."""


class Journal(Sink):
    """Passes everything on.

    Args:
        sinks: who listens; nobody in processes that write nothing.
    """

    def __init__(self, sinks: Sequence[Sink] = ()) -> None:
        self._sinks = tuple(sinks)

    def begin(self, epoch: int) -> None:
        """Say that a training begins, or goes on, with an epoch."""
        for sink in self._sinks:
            sink.begin(epoch)

    def step(self, values: Mapping[str, float], step: int) -> None:
        """Tell of a step of the training, counted over all epochs."""
        for sink in self._sinks:
            sink.step(values, step)

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Tell of an epoch."""
        for sink in self._sinks:
            sink.epoch(record)

    def results(self, content: Mapping[str, Any]) -> None:
        """Tell of the final test."""
        for sink in self._sinks:
            sink.results(content)

    def close(self) -> None:
        """Close all sinks; once, and each although another one fails."""
        sinks, self._sinks = self._sinks, ()
        failures = []
        for sink in sinks:
            try:
                sink.close()
            except Exception as error:
                failures.append(error)
        if failures:
            raise failures[0]


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of an epoch's record, one level deep: `train_loss`, `terms.bpp`, `lr.0`.

    Lists other than the learning rates, such as a value for each class, are left out.
    """
    flat: dict[str, float] = {}
    for name, value in record.items():
        parts: Mapping[Any, Any] = {"": value}
        if isinstance(value, Mapping):
            parts = value
        elif name == "lr":
            parts = dict(enumerate(value))
        for part, number in parts.items():
            if isinstance(number, bool | int | float):
                flat[f"{name}.{part}".rstrip(".")] = number
    return flat


def stage_curves(record: Mapping[str, Any]) -> dict[str, float]:
    """Return an epoch's numbers by curve, `stage1/terms/bpp`: each stage has its own.

    Losses of two stages have other terms: joined they would show a step that is none.
    """
    place = f"stage{record.get('stage', 1)}"
    return {
        f"{place}/{name.replace('.', '/')}": float(value)
        for name, value in scalars(record).items()
        if name not in ("stage", "epoch")
    }
