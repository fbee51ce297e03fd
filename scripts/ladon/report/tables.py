"""The tables of a report: results, results beside the published ones, and Bjøntegaard's deltas."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from ladon.report.bd import BdResult
from ladon.report.compare import (
    Comparison,
    Tolerance,
    difference,
    relative_difference,
)
from ladon.report.render import MISSING, Column, Table, number, show_table
from ladon.report.results import RunCollection, RunResult, Spread, datasets, in_order
from ladon.tasks import Score, TaskView

WIDTH_WITHOUT_TERMINAL = 240
_NAMED = 5  # classes below a table
KB_DIGITS = 3  # a byte, just about


def _beta_text(result: RunResult) -> str:
    return MISSING if result.shown_beta is None else f"{result.shown_beta:g}"


def _score_text(result: RunResult, score: Score | None) -> str:
    if result.missing and result.note and score is result.view.first:
        return "missing"
    return MISSING if score is None else number(result.score(score), result.digits(score))


def _mean(size: Spread | None) -> float | None:
    return None if size is None else size.mean


def _size_text(result: RunResult) -> str:
    size = result.data_size_kb
    return MISSING if size is None else f"{size.mean:.{KB_DIGITS}f} ± {size.std:.{KB_DIGITS}f}"


def _payload_text(result: RunResult) -> str:
    return MISSING if result.payload_bytes is None else f"{result.payload_bytes.mean:.1f}"


def _run_path(result: RunResult) -> str:
    """Return the run folder, relative to the working directory where it lies below."""
    absolute = os.path.abspath(result.run)
    relative = os.path.relpath(absolute)
    return absolute if relative.startswith(os.pardir) else Path(relative).as_posix()


RESULT_COLUMNS = (
    Column("task", lambda r: r.task),
    Column("dataset", lambda r: r.dataset, lambda v: "dataset", lambda r: r.dataset, left=True),
    Column("name", lambda r: r.name),
    Column("role", lambda r: r.role),
    Column("mode", lambda r: r.mode),
    Column("backbone", lambda r: r.backbone),
    Column("model", lambda r: r.label, lambda v: "model", lambda r: r.label, left=True),
    Column("beta", lambda r: r.shown_beta, lambda v: "β", _beta_text),
    Column("metric_name", lambda r: r.view.first.key),
    Column(
        "metric_value",
        lambda r: r.score(r.view.first),
        lambda v: v.first.label,
        lambda r: _score_text(r, r.view.first),
    ),
    Column("second_metric_name", lambda r: r.view.second and r.view.second.key),
    Column(
        "second_metric_value",
        lambda r: r.score(r.view.second),
        lambda v: v.second.label if v.second else MISSING,
        lambda r: _score_text(r, r.view.second),
    ),
    Column(
        "data_size_kb_mean",
        lambda r: r.data_size_kb and r.data_size_kb.mean,
        lambda v: "data size [KB]",
        _size_text,
    ),
    Column("data_size_kb_std", lambda r: r.data_size_kb and r.data_size_kb.std),
    Column(
        "payload_bytes_mean",
        lambda r: r.payload_bytes and r.payload_bytes.mean,
        lambda v: "payload [B]",
        _payload_text,
    ),
    Column("payload_bytes_std", lambda r: r.payload_bytes and r.payload_bytes.std),
    Column(
        "num_images",
        lambda r: r.num_images,
        lambda v: "n",
        lambda r: MISSING if r.num_images is None else str(r.num_images),
    ),
    Column(
        "images_per_s",
        lambda r: r.images_per_s,
        lambda v: "images/s",
        lambda r: number(r.images_per_s, 1),
    ),
    Column("run", _run_path, lambda v: "run", _run_path, aside=True, left=True),
)
PUBLISHED_COLUMNS = ("model", "beta", "metric_value", "second_metric_value", "data_size_kb_mean")


# in the CSV file, of runs that tell them
CLASS_COLUMNS = (
    Column("num_classes", lambda r: len(r.classes) if r.classes else None),
    Column("classes", lambda r: ";".join(r.classes or ())),
)


def csv_columns(results: Sequence[RunResult]) -> tuple[Column, ...]:
    """Return the columns of a report's CSV file."""
    return RESULT_COLUMNS + (CLASS_COLUMNS if any(r.classes for r in results) else ())


def title(results: Sequence[RunResult]) -> str:
    """Headline of the results of one task."""
    return f"{results[0].view.title}: {', '.join(datasets(results))}"


def result_table(results: Sequence[RunResult], names: Sequence[str] = ()) -> Table:
    """Return the table of one task.

    Args:
        results: of one task.
        names: the columns to show; all, if none are named, the dataset's where there are several.
    """
    hidden = set() if len(datasets(results)) > 1 else {"dataset"}
    hidden |= set() if results[0].view.second else {"second_metric_value"}
    columns = [
        column
        for column in RESULT_COLUMNS
        if column.header and (column.name in names if names else column.name not in hidden)
    ]
    caption = "\n".join(filter(None, (_missing_caption(results), _class_caption(results))))
    return Table(title(results), results[0].view, columns, list(results), caption)


def _missing_caption(results: Sequence[RunResult]) -> str:
    """Name the missing results by the reason; '' if there is none."""
    reasons: dict[str, list[str]] = {}
    for result in results:
        if result.missing and result.note:
            reason, _, detail = result.note.partition("; ")
            name = f"{result.label}, β {_beta_text(result)}"
            reasons.setdefault(reason, []).append(f"{name} ({detail})" if detail else name)
    return " – ".join(f"missing, {reason}: {'; '.join(n)}" for reason, n in reasons.items())


def _class_caption(results: Sequence[RunResult]) -> str:
    """Name the classes of each dataset whose runs tell them, shortened; '' if none does."""
    found = dict.fromkeys((r.dataset, r.classes) for r in results if r.classes)
    return "\n".join(
        f"{dataset}: {len(classes)} classes: {_shortened(classes)}" for dataset, classes in found
    )


def _shortened(names: Sequence[str]) -> str:
    more = ", …" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more}"


def result_tables(runs: RunCollection, names: Sequence[str] = ()) -> list[Table]:
    """Return the tables of all tasks."""
    return [result_table(results, names) for results in runs.by_task().values()]


def make_console() -> Console:
    """Return a console as wide as the terminal, or wide enough for a table where there is none."""
    console = Console(highlight=False)
    return (
        console if console.is_terminal else Console(width=WIDTH_WITHOUT_TERMINAL, highlight=False)
    )


def print_table(console: Console, results: Sequence[RunResult]) -> None:
    """Print one task's table; where it is too wide, the run folders follow below it."""
    show_table(console, result_table(results))


def _short(view: TaskView) -> str:
    return view.first.label.partition(" [")[0]


def _of_published(text: Callable[[RunResult], str]) -> Callable[[Comparison], str]:
    return lambda c: MISSING if c.published is None else text(c.published)


def _difference_text(c: Comparison) -> str:
    if c.scores is None or c.published is None:
        return MISSING
    metric = c.ours.view.first
    return number(difference(c.scores), max(c.ours.digits(metric), c.published.digits(metric)), "+")


def _percent(pair: tuple[float, float] | None) -> float | None:
    return None if pair is None or pair[1] == 0 else relative_difference(pair)


def _percent_text(pair: tuple[float, float] | None) -> str:
    return MISSING if _percent(pair) is None else f"{_percent(pair):+.2f} %"


COMPARISON_COLUMNS = (
    Column("task", lambda c: c.ours.task),
    Column("dataset", lambda c: c.ours.dataset),
    Column("backbone", lambda c: c.ours.backbone),
    Column("role", lambda c: c.ours.role),
    Column("model", lambda c: c.ours.label, lambda v: "model", lambda c: c.ours.label, left=True),
    Column("beta", lambda c: c.ours.shown_beta, lambda v: "β", lambda c: _beta_text(c.ours)),
    Column("metric_name", lambda c: c.ours.view.first.key),
    Column(
        "metric_published",
        lambda c: c.published and c.published.score(c.published.view.first),
        lambda v: f"published {v.first.label}",
        _of_published(lambda r: _score_text(r, r.view.first)),
    ),
    Column(
        "metric_value",
        lambda c: c.ours.score(c.ours.view.first),
        lambda v: v.first.label,
        lambda c: _score_text(c.ours, c.ours.view.first),
    ),
    Column(
        "metric_difference",
        lambda c: c.scores and difference(c.scores),
        lambda v: f"Δ {_short(v)}",
        _difference_text,
    ),
    Column(
        "metric_difference_percent",
        lambda c: _percent(c.scores),
        lambda v: f"Δ {_short(v)}, relative",
        lambda c: _percent_text(c.scores),
    ),
    Column(
        "data_size_kb_published",
        lambda c: c.published and c.published.data_size_kb and c.published.data_size_kb.mean,
        lambda v: "published size [KB]",
        _of_published(lambda r: number(_mean(r.data_size_kb), KB_DIGITS)),
    ),
    Column(
        "data_size_kb_mean",
        lambda c: c.ours.data_size_kb and c.ours.data_size_kb.mean,
        lambda v: "size [KB]",
        lambda c: number(c.ours.data_size_kb and c.ours.data_size_kb.mean, KB_DIGITS),
    ),
    Column(
        "data_size_kb_difference",
        lambda c: c.sizes and difference(c.sizes),
        lambda v: "Δ size [KB]",
        lambda c: number(c.sizes and difference(c.sizes), KB_DIGITS, "+"),
    ),
    Column(
        "data_size_difference_percent",
        lambda c: _percent(c.sizes),
        lambda v: "Δ size, relative",
        lambda c: _percent_text(c.sizes),
    ),
    Column("verdict", lambda c: c.verdict, lambda v: "verdict", lambda c: c.verdict, left=True),
    Column(
        "run",
        lambda c: _run_path(c.ours),
        lambda v: "run",
        lambda c: _run_path(c.ours),
        aside=True,
        left=True,
    ),
)


def comparison_tables(comparisons: Sequence[Comparison], tolerance: Tolerance) -> list[Table]:
    """Return runs beside the published results, a table per task."""
    columns = [column for column in COMPARISON_COLUMNS if column.header]
    tables = []
    for task in in_order(c.ours.task for c in comparisons):
        rows = [c for c in comparisons if c.ours.task == task]
        if rows:
            view = rows[0].ours.view
            headline = f"{title([c.ours for c in rows])}, against the published results"
            caption = f"Tolerance: {tolerance}. Δ: the run's minus the published."
            tables.append(Table(headline, view, columns, rows, caption))
    return tables


BD_COLUMNS = (
    Column("task", lambda b: b.test.subject[0]),
    Column("dataset", lambda b: b.test.subject[1]),
    Column("sweep", lambda b: b.test.label, lambda v: "sweep", lambda b: b.test.label, left=True),
    Column("than", lambda b: b.anchor.label, lambda v: "than", lambda b: b.anchor.label, left=True),
    Column(
        "bd_rate_percent",
        lambda b: b.rate,
        lambda v: "BD-rate [%]",
        lambda b: number(b.rate, 2, "+"),
    ),
    Column(
        "bd_accuracy",
        lambda b: b.accuracy,
        lambda v: f"BD-accuracy in {v.first.label}",
        lambda b: number(b.accuracy, b.test.results[0].view.first.digits, "+"),
    ),
    Column(
        "note",
        lambda b: "; ".join(b.notes),
        lambda v: "note",
        lambda b: "; ".join(b.notes),
        aside=True,
        left=True,
    ),
)


def bd_tables(results: Sequence[BdResult]) -> list[Table]:
    """Bjøntegaard's deltas, a table per task."""
    columns = [column for column in BD_COLUMNS if column.header]
    caption = "BD-rate: more bytes for the same accuracy; BD-accuracy: gain at the same bytes."
    tables = []
    for task in in_order(result.test.subject[0] for result in results):
        rows = [result for result in results if result.test.subject[0] == task]
        if rows:
            view = rows[0].test.results[0].view
            data = dict.fromkeys(result.test.subject[1] for result in rows)
            headline = f"{view.title}: {', '.join(data)}, Bjøntegaard's deltas"
            tables.append(Table(headline, view, columns, rows, caption))
    return tables
