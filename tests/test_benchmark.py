"""The benchmark: pairing and statistics, its file and table, and that a failure costs one part."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Callable
from dataclasses import asdict

import pytest
import torch
from rich.console import Console
from tiny import ROOT

from ladon.benchmark import memory, pairing, parts
from ladon.benchmark.codec import Rate, check_payloads
from ladon.benchmark.evaluation import watched
from ladon.benchmark.pairing import Pairs, alternate
from ladon.benchmark.parts import Bench, run_parts
from ladon.benchmark.published import PublishedConfusionMatrix, scored_as_published
from ladon.benchmark.results import (
    PartResult,
    Repeats,
    Results,
    Row,
    open_results,
    read_results,
)
from ladon.benchmark.table import part_table
from ladon.benchmark.workload import SOURCES, Workload
from ladon.commands import benchmark
from ladon.errors import LadonError, UsageError
from ladon.report.render import show_table
from ladon.tasks import TASKS

MACHINE = {"cpu": "x", "cores": 2}


class Clock:
    """A clock that each way moves on by its own seconds."""

    def __init__(self) -> None:
        self.now = 0.0
        self.order: list[str] = []

    def way(self, name: str, seconds: list[float]):
        remaining = iter(seconds)

        def run() -> str:
            self.order.append(name)
            self.now += next(remaining)
            return name

        return run


def test_the_two_ways_take_turns_and_repeats_pair_up(monkeypatch):
    clock, checked = Clock(), []
    monkeypatch.setattr(pairing, "clock", lambda: clock.now)
    pairs = alternate(
        clock.way("ours", [9.0, 1.0, 2.0, 4.0]),
        clock.way("reference", [9.0, 3.0, 4.0, 20.0]),
        3,
        check=lambda *found: checked.append(found),
    )
    # the warm-up first, then each pair in the other order than the one before
    names = ["ours", "reference"] * 2 + ["reference", "ours"] + ["ours", "reference"]
    assert clock.order == names
    assert pairs == Pairs([1.0, 2.0, 4.0], [3.0, 4.0, 20.0])
    assert checked == [("ours", "reference")] * 4


def test_ratio_is_of_neighbours_and_not_of_medians():
    pairs = Pairs([1.0, 2.0, 4.0], [3.0, 4.0, 20.0])
    duration = pairs.duration("x", "s")
    assert duration.ours == Repeats(2.0, 1.0, 4.0, 3)
    assert duration.reference == Repeats(4.0, 3.0, 20.0, 3)
    assert duration.ratio == Repeats(3.0, 2.0, 5.0, 3)  # of 3, 2, 5; the medians' is 2
    assert pairs.duration("x").ours.median == 2000.0  # ms
    rate = pairs.rate("x", 8)
    assert rate.ours == Repeats(4.0, 2.0, 8.0, 3)
    assert rate.ratio == duration.ratio
    # of other amounts: 24 images in 1, 2 and 4 s, 8 in 3, 4 and 20 s
    assert pairs.rate("x", 24, 8).ratio == Repeats(9.0, 6.0, 15.0, 3)


def test_a_difference_is_seen_while_timing():
    with pytest.raises(LadonError, match="payloads of the two ways differ"):
        alternate(lambda: [b"1234"], lambda: [b"1235"], 1, check=check_payloads)


def test_a_gpus_clock_waits_for_it(monkeypatch):
    """Both ends of a timing wait: before it for what is not its own, after it for what is."""
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waited.append(1))
    alternate(lambda: 1, lambda: 2, 3)
    assert waited == []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    alternate(lambda: 1, lambda: 2, 3)
    assert len(waited) == 2 * 2 * 3


def test_what_takes_less_is_better():
    line = Row.of("peak", "MiB", [1.0, 2.0], [3.0, 4.0])
    assert line.ratio == Repeats(2.5, 2.0, 3.0, 2)


def some_results() -> Results:
    line = Row("a, b", "ms", Repeats.of([1, 2, 6]), Repeats.of([2, 2]), Repeats.of([0.5]))
    alone = Row("alone", "MiB", Repeats.of([1234.5]))
    found = PartResult(
        "2026-01-01 00:00:00", 1.5, [line, alone], {"images": 3, "of": {"acc1": 0.25}}
    )
    return Results(MACHINE, False, "2026-01-01 00:00:00", {"codec": found})


def test_file_round_trip(tmp_path):
    path, results = tmp_path / "x.json", some_results()
    results.write(path)
    assert read_results(path) == results
    content = json.loads(path.read_text())
    assert content["schema"] == 1
    line, alone = content["parts"]["codec"]["measurements"]
    assert line["ours"] == {"median": 2, "min": 1, "max": 6, "n": 3}
    assert alone["reference"] is alone["ratio"] is None


def test_parts_of_the_same_machine_stay(tmp_path):
    path = tmp_path / "x.json"
    some_results().write(path)
    assert list(open_results(path, MACHINE, quick=False).parts) == ["codec"]
    assert open_results(path, MACHINE, quick=True).parts == {}
    assert open_results(path, MACHINE | {"cores": 4}, quick=False).parts == {}


@pytest.mark.parametrize(
    "path", (ROOT / "resource" / "benchmarks").glob("*.json"), ids=lambda p: p.name
)
def test_shipped_files_load_with_parts_that_are_gone(path):
    found = read_results(path)
    assert "evaluation" in found.parts
    assert ("roofline" in found.parts) == ("amd-epyc" in path.name), "the one of before"
    assert open_results(path, found.machine, quick=False) == found
    for name, part in found.parts.items():
        assert len(part_table(name, part).rows) == len(part.measurements)


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": 2}', '{"schema": 1, "parts": 3}'])
def test_a_file_that_is_none_is_not_overwritten(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"x\.json.*--out"):
        open_results(path, MACHINE, quick=False)
    assert path.read_text() == text


def test_table_shows_median_range_and_facts():
    console = Console(width=120, file=io.StringIO(), highlight=False)
    show_table(console, part_table("codec", some_results().parts["codec"]))
    text = console.file.getvalue()
    assert "a, b" in text
    for cell in ("2.00 (1.00–6.00)", "2.00 (2.00–2.00)", "0.500", "1234 ", "of: acc1 0.25"):
        assert cell in text, cell
    failed = part_table("memory", PartResult(error="OSError: full"))
    assert failed.title == "memory: failed: OSError: full"


@pytest.mark.parametrize(
    ("value", "text"), [(0.01234, "0.012"), (9.876, "9.88"), (98.76, "98.8"), (98765.4, "98765")]
)
def test_numbers_have_three_digits(value, text):
    assert str(Repeats.of([value])) == text


@pytest.fixture
def run_these(tmp_path, monkeypatch):
    """Runs functions as parts; returns the names of failed ones, of shown ones, and the file."""

    def run(**measures: Callable[[Bench], None]):
        monkeypatch.setattr(parts, "PARTS", tuple(measures))
        for name, measure in measures.items():
            module = type(sys)(name)
            module.measure = measure
            monkeypatch.setitem(sys.modules, f"ladon.benchmark.{name}", module)
        shown, out = [], tmp_path / "x.json"
        failed = run_parts(
            list(reversed(measures)),
            lambda name: Bench(tmp_path),
            Results(MACHINE),
            out,
            lambda name, part: shown.append(name),
        )
        return failed, shown, read_results(out).parts

    return run


def test_a_failed_part_costs_no_other(tmp_path, run_these):
    def fail(bench):
        raise ValueError("no luck")

    def succeed(bench):
        # what was done before is on disk already
        assert read_results(tmp_path / "x.json").parts["bad"].error == "ValueError: no luck"
        bench.found.facts["n"] = 1

    failed, shown, found = run_these(bad=fail, good=succeed)
    assert failed == ["bad"]
    assert shown == ["bad", "good"]
    assert found["good"].facts == {"n": 1}


def test_what_an_interrupted_part_had_found_is_kept(tmp_path, run_these, caplog):
    caplog.set_level(logging.INFO, "ladon.benchmark")

    def measure(bench):
        bench.found.facts["images"] = 3
        bench.found.add(Row.of("done", "s", [1.0]))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_these(bad=measure)
    part = read_results(tmp_path / "x.json").parts["bad"]
    assert (part.error, part.facts) == ("interrupted", {"images": 3})
    assert [line.name for line in part.measurements] == ["done"]
    kept = f"What part bad had measured is in {tmp_path / 'x.json'}"
    assert caplog.messages == ["done: 1.00 s", kept]


def test_a_part_interrupted_before_its_first_figure_leaves_no_file(tmp_path, run_these, caplog):
    caplog.set_level(logging.INFO, "ladon.benchmark")

    def measure(bench):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_these(bad=measure)
    assert not (tmp_path / "x.json").exists()
    assert caplog.messages == []


def test_a_line_is_logged_when_it_is_there(caplog):
    caplog.set_level(logging.INFO, "ladon.benchmark")
    found, row = PartResult(), Row.of("a, b", "ms", [2.0, 4.0], [4.0, 6.0])
    found.add(row)
    assert found.measurements == [row]
    assert caplog.messages == ["a, b: 3.00 (2.00–4.00) ms, ratio 1.75 (1.50–2.00)"]


def test_codec_quickly(tmp_path, capsys):
    out = tmp_path / "x.json"
    arguments = ["--quick", "--only", "codec", "--repeats", "2", "--threads", "1"]
    assert benchmark.main([*arguments, "--out", str(out)]) == 0
    found = read_results(out)
    assert list(found.parts) == ["codec"]
    assert found.quick
    assert found.machine["threads"] == 1
    # five rates, encode and decode, against CompressAI and all cores against one
    lines = found.parts["codec"].measurements
    assert len(lines) == len({line.name for line in lines}) == 20
    assert all(line.ratio.n == 2 for line in lines)
    sizes = [int(text.split()[0]) for text in found.parts["codec"].facts["payloads"].values()]
    assert sizes == sorted(sizes)
    assert sizes[-1] > 30 * sizes[0]
    assert f"written: {out}" in capsys.readouterr().out


def test_a_workload_is_repeated():
    work = Workload(None, None, None, ["a", "b", "c"], {"kwargs": {"num_workers": 9, "x": 1}})
    assert list(work.repeated(7).dataset) == ["a", "b", "c", "a", "b", "c", "a"]
    assert work.repeated(3) is work
    assert work.without_workers().loader == {"kwargs": {"num_workers": 0, "x": 1}}
    assert work.loader["kwargs"]["num_workers"] == 9


@pytest.mark.parametrize("name", list(SOURCES))
def test_predicted_labels_are_noted_on_their_way_to_the_metric(name, monkeypatch):
    given = []

    class Metric:
        def update(self, outputs, targets):
            given.append((outputs, targets))

    task, notes = watched(TASKS[name])
    monkeypatch.setattr(type(task), "metric", lambda self, dataset, options: Metric())
    logits = torch.zeros(2, 3, 1)  # [N, C, H·W]
    logits[0, 2] = logits[1, 1] = 1.0
    outputs = {
        "image_classification": logits[..., 0],
        "object_detection": [{"boxes": torch.zeros(0, 4)}],
        "semantic_segmentation": {"out": logits},
    }[name]
    task.metric([], {}).update(outputs, "targets")
    assert given == [(outputs, "targets")]
    assert [list(labels) for labels in notes] == ([] if isinstance(outputs, list) else [[2, 1]])


def test_memory_is_told_by_place(tmp_path, monkeypatch):
    peaks = {"published": (300.0, 40.0), "float32": (200.0, 20.0), "bf16": (100.0, 10.0)}
    monkeypatch.setattr(
        memory,
        "_in_new_process",
        lambda bench, way: dict(zip(("", " on the GPU"), peaks[way], strict=True)),
    )
    bench = Bench(tmp_path, "cuda", 2)
    memory.measure(bench)
    assert {line.name: line.ratio.median for line in bench.found.measurements} == {
        "peak of image_classification: float32 against published": 1.5,
        "peak of image_classification on the GPU: float32 against published": 2.0,
        "peak of image_classification: bf16 against published": 3.0,
        "peak of image_classification on the GPU: bf16 against published": 4.0,
    }


def test_rates_follow_from_the_scale_alone():
    first, second = (Rate.make(1.5, 1, 5) for _ in range(2))
    assert torch.equal(first.latents, second.latents)
    assert first.bottleneck.compress(first.latents) == second.bottleneck.compress(second.latents)


@pytest.mark.parametrize(
    "arguments",
    [["--only", "codecs"], ["--tasks", "x"], ["--repeats", "0"], ["--threads", "0"]],
)
def test_wrong_usage(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        benchmark.main(arguments)
    assert stop.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_a_device_that_is_not_there_is_said(tmp_path, capsys):
    out = tmp_path / "x.json"
    assert benchmark.main(["--device", "gpu", "--out", str(out)]) != 0
    assert "--device gpu: not a device" in capsys.readouterr().err
    assert not out.exists()


def test_measurements_survive_json():
    for measurement in some_results().parts["codec"].measurements:
        again = Row.from_json(json.loads(json.dumps(asdict(measurement))))
        assert again == measurement


@pytest.mark.slow
def test_parts_run_at_the_smallest_size_and_both_ways_learn_the_same(tmp_path):
    """Each part compares the two ways before it times them; of training the first losses show."""
    out = tmp_path / "quick.json"
    names = ["codec", "evaluation", "validation", "training"]
    flags = ["--quick", "--repeats", "1", "--tasks", "image_classification", "--out", str(out)]
    assert benchmark.main([*flags, "--only", *names]) == 0
    found = json.loads(out.read_text())["parts"]
    assert sorted(found) == sorted(names)
    facts = found["training"]["facts"]
    differences = {name: value for name, value in facts.items() if "first losses" in name}
    assert len(differences) == 4, "two stages in two precisions"
    for name, value in differences.items():
        assert abs(value) < (1e-5 if "float32" in name else 0.05), name


def test_pixels_are_counted_by_the_published_operators_with_the_same_result():
    scored = {name: scored_as_published(task) for name, task in TASKS.items()}
    ours, theirs = (
        tasks["semantic_segmentation"].metric(None, {"num_classes": 5}) for tasks in (TASKS, scored)
    )
    assert type(theirs) is PublishedConfusionMatrix
    for seed in range(2):
        torch.manual_seed(seed)
        logits = torch.randint(4, (2, 5, 9, 7)).float()  # with equal ones among a pixel's
        labels = torch.randint(5, (2, 9, 7)).masked_fill(torch.rand(2, 9, 7) < 0.2, 255)
        for metric in (ours, theirs):
            metric.update({"out": logits}, labels)
    assert theirs.state() == ours.state()
    for name in ("image_classification", "object_detection"):
        assert "metric" not in vars(scored[name])
