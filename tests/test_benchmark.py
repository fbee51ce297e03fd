"""The benchmark: pairing and statistics, its file and table, and that a failure costs one part."""

from __future__ import annotations

import io
import json
import sys
import threading
from dataclasses import asdict

import pytest
import torch
from rich.console import Console
from test_models import splittable

from ladon.benchmark import evaluation, parts, throughput
from ladon.benchmark.agreement import agreement
from ladon.benchmark.codec import Rate, check_payloads
from ladon.benchmark.machine import clock_of, peak_device_mib
from ladon.benchmark.memory import measure as measure_memory
from ladon.benchmark.pairing import Pairs, against, alternate
from ladon.benchmark.parts import Bench, run_parts
from ladon.benchmark.published import keep_latents
from ladon.benchmark.results import (
    Measurement,
    PartResult,
    Results,
    Spread,
    open_results,
    read_results,
)
from ladon.benchmark.roofline import model_parts
from ladon.benchmark.table import part_sheet, spread_text
from ladon.benchmark.workload import Workload
from ladon.commands import benchmark
from ladon.errors import LadonError, UsageError
from ladon.report.render import print_sheet

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


def test_the_two_ways_take_turns_and_repeats_pair_up():
    clock, checked = Clock(), []
    pairs = alternate(
        clock.way("ours", [9.0, 1.0, 2.0, 4.0]),
        clock.way("reference", [9.0, 3.0, 4.0, 20.0]),
        3,
        check=lambda *found: checked.append(found),
        clock=lambda: clock.now,
    )
    # the warm-up first, then each pair in the other order than the one before
    names = ["ours", "reference"] * 2 + ["reference", "ours"] + ["ours", "reference"]
    assert clock.order == names
    assert pairs == Pairs([1.0, 2.0, 4.0], [3.0, 4.0, 20.0])
    assert checked == [("ours", "reference")] * 4


def test_ratio_is_of_neighbours_and_not_of_medians():
    pairs = Pairs([1.0, 2.0, 4.0], [3.0, 4.0, 20.0])
    duration = pairs.duration("x", "s", per_second=1)
    assert duration.ours == Spread(2.0, 1.0, 4.0, 3)
    assert duration.reference == Spread(4.0, 3.0, 20.0, 3)
    assert duration.ratio == Spread(3.0, 2.0, 5.0, 3)  # of 3, 2, 5; the medians' is 2
    rate = pairs.rate("x", 8, "images/s")
    assert rate.ours == Spread(4.0, 2.0, 8.0, 3)
    assert rate.ratio == duration.ratio


def test_a_difference_is_seen_while_timing():
    with pytest.raises(LadonError, match="payloads of the two ways differ"):
        alternate(lambda: [b"1234"], lambda: [b"1235"], 1, check=check_payloads)


def test_a_gpus_clock_waits_for_it(monkeypatch):
    """Both ends of a timing wait: before it for what is not its own, after it for what is."""
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: waited.append(str(device)))
    alternate(lambda: 1, lambda: 2, 3, clock=clock_of("cuda:1"))
    assert waited == ["cuda:1"] * 2 * 2 * 3
    waited.clear()
    alternate(lambda: 1, lambda: 2, 3, clock=clock_of(torch.device("cpu")))
    assert waited == []


def test_what_takes_less_is_better():
    line = against("MiB", "peak", [1.0, 2.0], [3.0, 4.0])
    assert line.ratio == Spread(2.5, 2.0, 3.0, 2)


def some_results() -> Results:
    line = Measurement("a, b", "ms", Spread.of([1, 2, 6]), Spread.of([2, 2]), Spread.of([0.5]))
    alone = Measurement("alone", "MiB", Spread.of([1234.5]))
    found = PartResult("2026-01-01 00:00:00", 1.5, [line, alone], {"images": 3, "same": True})
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


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": 2}', '{"schema": 1, "parts": 3}'])
def test_a_file_that_is_none_is_not_overwritten(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"x\.json.*--out"):
        open_results(path, MACHINE, quick=False)
    assert path.read_text() == text


def test_table_shows_median_range_and_facts():
    console = Console(width=120, file=io.StringIO(), highlight=False)
    print_sheet(console, part_sheet("codec", some_results().parts["codec"]))
    text = console.file.getvalue()
    assert "a, b" in text
    for cell in ("2.00 (1.00–6.00)", "2.00 (2.00–2.00)", "0.500", "1234 ", "same: yes"):
        assert cell in text, cell
    failed = part_sheet("memory", PartResult(error="OSError: full"))
    assert failed.title == "memory: failed: OSError: full"


@pytest.mark.parametrize(
    ("value", "text"), [(0.01234, "0.012"), (9.876, "9.88"), (98.76, "98.8"), (98765.4, "98765")]
)
def test_numbers_have_three_digits(value, text):
    assert spread_text(Spread.of([value])) == text


def test_a_failed_part_costs_no_other(tmp_path, monkeypatch):
    def module(name, measure):
        made = type(sys)(name)
        made.measure = measure
        monkeypatch.setitem(sys.modules, name, made)
        return name

    def fail(bench):
        raise ValueError("no luck")

    def succeed(bench):
        # what was done before is on disk already
        assert read_results(tmp_path / "x.json").parts["bad"].error == "ValueError: no luck"
        return PartResult(facts={"n": 1})

    monkeypatch.setattr(parts, "PARTS", {"bad": module("b", fail), "good": module("g", succeed)})
    results, shown = Results(MACHINE), []
    failed = run_parts(
        ["good", "bad"],
        lambda name: Bench(tmp_path, results),
        tmp_path / "x.json",
        lambda name, part: shown.append(name),
    )
    assert failed == ["bad"]
    assert shown == ["bad", "good"]
    assert read_results(tmp_path / "x.json").parts["good"].facts == {"n": 1}


def test_what_an_interrupted_part_had_found_is_kept(tmp_path, monkeypatch):
    def measure(bench):
        found = bench.begin(images=3)
        found.measurements.append(Measurement("done", "s", Spread.of([1.0])))
        raise KeyboardInterrupt

    module = type(sys)("interrupted")
    module.measure = measure
    monkeypatch.setitem(sys.modules, "interrupted", module)
    monkeypatch.setattr(parts, "PARTS", {"bad": "interrupted"})
    path, results = tmp_path / "x.json", Results(MACHINE)
    with pytest.raises(KeyboardInterrupt):
        run_parts(["bad"], lambda name: Bench(tmp_path, results), path, lambda *part: None)
    part = read_results(path).parts["bad"]
    assert (part.error, part.facts) == ("interrupted", {"images": 3})
    assert [line.name for line in part.measurements] == ["done"]


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


@pytest.mark.slow
def test_input_quickly(tmp_path):
    out = tmp_path / "x.json"
    arguments = ["--quick", "--only", "input", "--repeats", "2", "--out", str(out)]
    assert benchmark.main(arguments) == 0
    part = read_results(out).parts["input"]
    assert part.error is None
    (line,) = part.measurements
    assert line.ratio.n == 2
    # by construction every image is recognised by the features that it gave itself
    assert part.facts["acc1"].endswith("and 100.0000")
    assert part.facts["images"] == 2
    assert 0 < float(part.facts["pixels of another level"].split()[0]) < 1


class Images(torch.utils.data.Dataset):
    """Image n is full of n."""

    def __getitem__(self, index):
        return torch.full((3, 8, 8), float(index)), 0

    def __len__(self):
        return 6


def test_latents_are_the_images_own_whatever_runs_at_once(monkeypatch):
    """Threads that overtake each other leave their batches in any order."""
    model, under_way = splittable(), []
    encoder = torch.nn.Identity()
    monkeypatch.setattr(evaluation, "find_bottleneck", lambda _: bottleneck)
    bottleneck = type(sys)("bottleneck")
    bottleneck.encoder = encoder

    def evaluate_ours(work, *_):
        done = [threading.Event() for _ in range(len(work.dataset) + 1)]
        done[-1].set()

        def encode(n):
            done[n + 1].wait()  # the last one is the first to be done
            encoder(work.dataset[n][0][None])
            done[n].set()

        threads = [threading.Thread(target=encode, args=(n,)) for n in range(len(work.dataset))]
        under_way.append(len(threads))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    monkeypatch.setattr(evaluation, "evaluate_ours", evaluate_ours)
    work = Workload(None, None, model, Images(), {"kwargs": {"batch_size": 2, "num_workers": 9}})
    # several at once, and their order is lost
    kept, let_go = keep_latents(encoder, 6)
    evaluate_ours(work)
    let_go()
    assert [int(latent[0, 0, 0, 0]) for latent in kept] == [5, 4, 3, 2, 1, 0]
    found = evaluation.latents_by_image(work, model, torch.device("cpu"), "float32", 4)
    assert [int(latent[0, 0, 0, 0]) for latent in found] == [0, 1, 2, 3]


def test_differing_symbols_are_counted_over_images_of_any_size():
    coded = Rate.make(1.5, 1, 5)
    latents = [torch.zeros(1, 24, 4, 4), torch.zeros(1, 24, 3, 5)]
    others = [latent.clone() for latent in latents]
    others[1][0, 0, 0, :2] = torch.tensor([1.0, -3.0])
    text = evaluation._differing(coded.bottleneck, latents, others)
    assert text == f"2 of {24 * (16 + 15)}, by at most 3"


@pytest.mark.slow
def test_throughput_quickly(tmp_path):
    out = tmp_path / "x.json"
    arguments = ["--quick", "--only", "throughput", "--repeats", "1", "--out", str(out)]
    assert benchmark.main(arguments) == 0
    part = read_results(out).parts["throughput"]
    assert part.error is None
    names = [line.name for line in part.measurements]
    assert len(set(names)) == len(names) == 9
    assert [name for name in names if "fast" in name]
    for line in part.measurements:
        assert (line.ratio is None) == line.name.startswith("alone: ")
    sizes = [f["payload bytes, mean"] for f in part.facts.values() if isinstance(f, dict)]
    assert len(sizes) == 3
    # near the largest published rate, 86 kB at β 0.32
    assert all(80_000 < size < 95_000 for size in sizes)
    assert part.facts["float32, input reference"]["equal payload sizes"] == "2 of 2"


def test_an_evaluation_takes_seconds_not_minutes():
    size = throughput.Size.of(torch.device("cuda"), quick=False)
    assert size.fitting(1024.0) == 6144  # all of them: eight seconds would be 8192
    assert size.fitting(256.0) == 2048
    assert size.fitting(8.5) == 1024
    assert throughput.Size.of(torch.device("cpu"), quick=False).images < 16


def test_memory_is_told_by_place(tmp_path, monkeypatch):
    peaks = {"published": (300.0, 40.0), "float32": (200.0, 20.0), "bf16": (100.0, 10.0)}
    monkeypatch.setattr(
        "ladon.benchmark.memory._run",
        lambda bench, way, images: dict(zip(("host", "device"), peaks[way], strict=True)),
    )
    lines = measure_memory(Bench(tmp_path, Results(MACHINE), "cuda", 2)).measurements
    found = {line.name: line.ratio.median for line in lines}
    assert found == {
        "peak of image_classification: float32 against published": 1.5,
        "peak of image_classification on the GPU: float32 against published": 2.0,
        "peak of image_classification: bf16 against published": 3.0,
        "peak of image_classification on the GPU: bf16 against published": 4.0,
    }
    assert peak_device_mib(torch.device("cpu")) is None


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


def test_agreement_of_labels_and_of_boxes():
    labels = [torch.tensor([1, 2]), torch.tensor([3, 4])]
    assert agreement(labels, [torch.tensor([1, 2, 3]), torch.tensor([9])]) == 0.75

    def boxes(*rows):
        corners = torch.tensor([row[1:] for row in rows], dtype=torch.float32).reshape(-1, 4)
        return {"labels": torch.tensor([row[0] for row in rows]), "boxes": corners}

    ours = [(7, boxes((1, 0, 0, 10, 10), (1, 0, 0, 10, 10), (2, 20, 20, 40, 40)))]
    theirs = [(7, boxes((1, 0, 0, 10, 10.5), (3, 20, 20, 40, 40)))]
    # one partner for two equal boxes, none where the label differs: 1 of 3
    assert agreement(ours, theirs) == pytest.approx(1 / 3)
    assert agreement([(7, boxes())], [(7, boxes())]) == 1


def test_parts_of_a_network_are_found_by_name():
    model = splittable()
    found = model_parts(model)
    assert list(found) == ["encoder", "decoder", "layer2", "layer3", "layer4", "fc"]
    assert found["layer3"] is model.layer3


def test_measurements_survive_json():
    for measurement in some_results().parts["codec"].measurements:
        again = Measurement.from_json(json.loads(json.dumps(asdict(measurement))))
        assert again == measurement
