"""What is shown of runs: a table, and curves of as many of them as there is room for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ladon.watch.curves import curve
from ladon.watch.states import RunState

_COLORS = {
    "running": "green",
    "testing": "green",
    "starting": "cyan",
    "waiting": "dim",
    "finished": "bold",
    "interrupted": "yellow",
    "stopped": "yellow",
    "silent": "yellow",
    "failed": "red",
    "died": "red",
    "removed": "dim",
}
_STAGE_COLORS = ("cyan", "magenta", "blue", "yellow")
_CURVE_LINES, _CURVE_WIDTH, _LEAST_WIDTH = 4, 32, 12
_COLUMNS = ("run", "state", "stage", "epoch", "step", "loss", "best", "img/s", "left", "saved")


def screen(
    runs: Sequence[tuple[str, RunState]], width: int, height: int | None = None
) -> RenderableType:
    """Return what a terminal shows.

    Args:
        runs: with what they are called.
        width: of the terminal, in letters.
        height: of it, in lines; None where it does not matter.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in _COLUMNS:
        is_text = name in ("run", "state")
        table.add_column(
            name,
            justify="left" if is_text else "right",
            no_wrap=True,
            overflow="ellipsis",
            min_width=None if is_text else len(name),
            header_style="dim",
        )
    for name, run in runs:
        table.add_row(*_row(name, run))
    parts: list[RenderableType] = [table]
    for name, run in runs:
        if run.detail:
            parts.append(Text(f"{name}: {run.detail}", style=_COLORS[run.state]))
    each = _CURVE_LINES + 3  # with a line between, the run's name and the curves' titles
    used = len(runs) + len(parts) + 2  # with the table's head, and the line of what is left out
    room = None if height is None else max(0, (height - used) // each)
    with_curves = [(name, run) for name, run in runs if run.epochs]
    with_curves.sort(key=lambda pair: pair[1].state not in ("running", "testing"))
    for name, run in with_curves[:room]:
        parts += [Text(), _curves(name, run, width)]
    if room is not None and len(with_curves) > room:
        parts.append(Text(f"and curves of {len(with_curves) - room} more runs", style="dim"))
    return Group(*parts)


def _row(name: str, run: RunState) -> list[Text]:
    stage, step, last = run.stage, run.step, run.epochs[-1] if run.epochs else {}
    is_over = run.state == "finished"
    stages = f"{stage}/{len(run.stages)}" if stage and run.stages else str(stage or "")
    trained = len(run.epochs) if is_over else run.epoch
    epoch = f"{trained}/{run.num_epochs}" if run.num_epochs else str(trained or "")
    loss = step.loss if step is not None else last.get("train_loss")
    speed = last.get("images_per_s")
    if speed is None and step is not None:
        speed = step.images_per_s
    best = run.best
    score = "" if run.score is None or best is None else f"{run.score.key} "
    cells = [
        stages,
        epoch,
        f"{step.step}/{step.steps}" if step is not None and not is_over else "",
        "" if loss is None else short(loss),
        "" if best is None else f"{score}{best[0]:.{run.score.digits if run.score else 3}f}",
        "" if speed is None else short(speed),
        "" if run.seconds_left is None or is_over else duration(run.seconds_left),
        "" if run.saved is None or is_over else f"{duration(run.saved)} ago",
    ]
    return [Text(name), Text(run.state, style=_COLORS[run.state]), *map(Text, cells)]


def _curves(name: str, run: RunState, width: int) -> RenderableType:
    """Return a run's curves side by side: each stage's loss, its rate, and the decisive score."""
    found = curves_of(run)
    most = max(1, width // (_LEAST_WIDTH + 2))
    shown = found[:most] if len(found) > most else found
    each = min(_CURVE_WIDTH, width // max(1, len(shown)) - 2)
    grid = Table.grid(padding=(0, 2, 0, 0))
    cells = []
    for number, (title, values) in enumerate(shown):
        color = _STAGE_COLORS[number % len(_STAGE_COLORS)]
        text = Text(no_wrap=True, overflow="ellipsis")
        ends = f"{title} {short(values[0])} → {short(values[-1])}"
        text.append(f"{ends if len(ends) <= each else ends[: each - 1] + '…'}\n", "dim")
        text.append("\n".join(curve(values, max(_LEAST_WIDTH, each), _CURVE_LINES)), color)
        cells.append(text)
    grid.add_row(*cells)
    return Group(Text(name, style="bold"), grid)


def curves_of(run: RunState) -> list[tuple[str, list[float]]]:
    """Return a run's curves by epoch, each with its title.

    Two stages have two curves of the loss: it is another one.
    """
    curves: list[tuple[str, list[float]]] = []
    numbers = dict.fromkeys(record.get("stage", 1) for record in run.epochs)
    for number in numbers:
        records = [record for record in run.epochs if record.get("stage", 1) == number]
        where = f"stage{number} " if len(numbers) > 1 or len(run.stages) > 1 else ""
        for title, key in (("loss", "train_loss"), ("bpp", "bpp")):
            _add(curves, f"{where}{title}", records, key)
    if run.score is not None:
        key = run.score.key
        _add(curves, key, [record.get("val") or {} for record in run.epochs], key)
    _add(curves, "payload bytes", run.epochs, "val_payload_bytes")
    return curves


def _add(
    curves: list[tuple[str, list[float]]],
    title: str,
    records: Sequence[Mapping[str, Any]],
    key: str,
) -> None:
    values = [v for record in records if isinstance(v := record.get(key), int | float)]
    if values:
        curves.append((title, [float(value) for value in values]))


def short(value: float) -> str:
    """Return a number in at most some seven letters."""
    return f"{value:.4g}" if abs(value) < 1e5 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """Return a time in its two largest units: `3 d 4 h`, `1 h 05 min`, `12 s`."""
    whole = timedelta(seconds=round(seconds))
    hours, rest = divmod(whole.seconds, 3600)
    if whole.days:
        return f"{whole.days} d {hours} h"
    if hours:
        return f"{hours} h {rest // 60:02d} min"
    if rest >= 600:
        return f"{rest // 60} min"
    return f"{rest // 60} min {rest % 60:02d} s" if rest >= 60 else f"{rest} s"
