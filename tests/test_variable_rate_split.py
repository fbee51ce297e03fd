"""A variable-rate model in halves: rates and budgets in the library, on a device, over a link."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from split_models import pixels, write_config
from students import splittable_section
from tiny import ROOT

import ladon
from ladon.bottlenecks import find_bottleneck, update_bottleneck
from ladon.codec import Payload
from ladon.codec.rates import BudgetError, Rates
from ladon.commands.predict import main as predict_main
from ladon.edge import EdgeEncoder
from ladon.edge.link import Link
from ladon.edge.main import main as edge_main
from ladon.edge.pace import Pace
from ladon.errors import PayloadError, UsageError
from ladon.export.edge import export_edge
from ladon.models import build_model, write_checkpoint

C, LEVELS = 5, 31
BETAS = (0.32, 1.28, 5.12, 10.24, 20.48)


def section(key="VariableRateBottleneck", **kwargs):
    kwargs = {"num_bottleneck_channels": C, "num_target_channels": 64, **kwargs}
    return splittable_section(bottleneck={"key": key, "kwargs": kwargs}, classes=10)


def written(folder, **kwargs):
    """A config, and the checkpoint that it names."""
    made = section(**kwargs)
    torch.manual_seed(2)
    model = build_model(made, "classification", "models.model").eval()
    with torch.no_grad():
        bottleneck = find_bottleneck(model)
        bottleneck.encoder[-1].weight.mul_(8)
        if bottleneck.rates is not None:
            bottleneck.decoder.after.output.weight.normal_(std=0.5)
    update_bottleneck(model)
    path = folder / f"{made['kwargs']['bottleneck_config']['key']}.pt"
    write_checkpoint(path, model, best_value=1.0)
    return write_config(path.with_suffix(".yaml"), {**made, "dst_ckpt": str(path)})


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("rates")


@pytest.fixture(scope="module")
def model(place):
    with ladon.load(written(place, levels=LEVELS)) as made:
        yield made


@pytest.fixture(scope="module")
def folder(model, place):
    export_edge(model, place / "edge", origin={"config": "x.yaml"}, licence="MIT")
    return place / "edge"


@pytest.fixture(scope="module")
def picture(place):
    Image.fromarray(pixels()).save(place / "picture.png")
    return place / "picture.png"


def test_a_rate_is_named_by_its_beta(model):
    sizes = []
    for beta in BETAS:
        payload = model.encode(pixels(), rate=beta)
        assert payload.rate == model.rates.level(beta)
        sizes.append(payload.num_body_bytes)
        again = Payload.from_bytes(payload.to_bytes(), expected=[model.encoder_id])
        assert model.answer(again).to_plain() == model.answer(payload).to_plain()
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == len(BETAS)
    assert model.encode(pixels()).rate == model.rates.middle == 15


def test_payloads_of_several_rates_are_answered_together(model):
    payloads = [model.encode(pixels(seed=n), rate=beta) for n, beta in enumerate(BETAS)]
    together = model.answer_batch(payloads)
    alone = [model.answer(payload) for payload in payloads]
    for one, other in zip(together, alone, strict=True):
        found, expected = one.classes, other.classes
        assert [c.label for c in found] == [c.label for c in expected]
        assert [c.score for c in found] == pytest.approx([c.score for c in expected], abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_a_budget_is_kept_and_used(model, seed):
    image = pixels(seed=seed)
    sizes = [len(model.encode(image, rate=model.rates.beta(n)).to_bytes()) for n in range(LEVELS)]
    for budget in (sizes[-1], sizes[-1] + 5, sum(sizes) // LEVELS, sizes[3] - 1, sizes[0], 10**6):
        payload = model.encode(image, max_bytes=budget)
        finest = next(n for n, size in enumerate(sizes) if size <= budget)
        assert payload.rate == finest
        assert len(payload.to_bytes()) == sizes[finest] <= budget


def test_a_budget_that_no_rate_keeps(model):
    least = model.encode(pixels(), rate=20.48).num_body_bytes
    with pytest.raises(BudgetError, match=rf"takes {least:,} bytes at the coarsest rate, β 20\.48"):
        model.encode(pixels(), max_bytes=least + 39)
    with pytest.raises(BudgetError, match=r"and the budget leaves 0: allow more"):
        model.encode(pixels(), max_bytes=3)


def test_wrong_wishes(model, place):
    with pytest.raises(UsageError, match=r"β 40: this model has β from 0\.32 to 20\.48"):
        model.encode(pixels(), rate=40)
    with pytest.raises(UsageError, match="name one of them"):
        model.encode(pixels(), rate=1, max_bytes=1000)
    fixed = written(place, key="FPBasedResNetBottleneck")
    with ladon.load(fixed) as other:
        assert other.rates is None
        assert other.encode(pixels()).rate is None
        for wish in ({"rate": 1.28}, {"max_bytes": 1000}):
            with pytest.raises(UsageError, match="FPBasedResNetBottleneck has one rate"):
                other.encode(pixels(), **wish)
        payload = other.encode(pixels())
        with pytest.raises(PayloadError, match=r"of rate level 3: .* has one rate"):
            other.answer(replace(payload, rate=3))


def test_a_payload_whose_level_was_changed(model):
    payload = model.encode(pixels(), rate=5.12)
    with pytest.raises(PayloadError, match=r"of no rate level: .* has 31 levels"):
        model.answer(replace(payload, rate=None))
    with pytest.raises(PayloadError, match=r"of rate level 31: .* has 0 to 30"):
        model.answer(replace(payload, rate=31))
    sent = bytearray(payload.to_bytes())
    sent[13] = 3
    with pytest.raises(PayloadError, match="checksum"):
        model.answer(bytes(sent))


_OTHER_PROCESS = """\
import sys, torch, numpy as np
torch.set_num_threads(int(sys.argv[3]))
import ladon
from ladon.codec import Payload
with ladon.load(sys.argv[1]) as model:
    content = np.load(sys.argv[2])
    for n in range(model.rates.levels):
        payload = Payload.from_bytes(content[f"payload{n}"].tobytes())
        strings, level = [list(payload.strings)], payload.rate
        with torch.inference_mode():
            read = model.bottleneck.coding.read(strings, payload.shape, [level])
        assert np.array_equal(read.numpy(), content[f"latent{n}"]), n
    print("equal")
"""


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_another_process_reads_every_level_to_the_bit(model, place, threads):
    content = {}
    with torch.inference_mode():
        for n in range(LEVELS):
            payload = model.encode(pixels(), rate=model.rates.beta(n))
            assert payload.rate == n
            strings = [list(payload.strings)]
            read = model.bottleneck.coding.read(strings, payload.shape, [n])
            content[f"latent{n}"] = read.numpy()
            content[f"payload{n}"] = np.frombuffer(payload.to_bytes(), np.uint8)
    np.savez(place / "payloads.npz", **content)
    config = place / "VariableRateBottleneck.yaml"
    command = [sys.executable, "-c", _OTHER_PROCESS, str(config), str(place / "payloads.npz")]
    done = subprocess.run(
        [*command, str(threads)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "scripts")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "equal\n"


def test_the_device_has_every_rate(model, folder):
    device = EdgeEncoder(folder)
    assert device.manifest.rates == Rates(levels=LEVELS)
    fitted = device.fit(pixels())
    latent = device.latent(fitted)
    for beta in BETAS:
        payload = device.encode_fitted(fitted, rate=beta)
        coder = device.tables.level(payload.rate)
        meant = coder.latent(coder.symbols(latent))
        with torch.inference_mode():
            strings = [list(payload.strings)]
            read = model.bottleneck.coding.read(strings, payload.shape, [payload.rate])
        assert np.array_equal(read[0, :C].numpy(), meant)
        assert model.answer(payload.to_bytes()).classes
    whole = len(device.encode_fitted(fitted, rate=0.32).to_bytes())
    kept = device.encode_fitted(fitted, max_bytes=whole - 1)
    assert kept.rate >= 1
    assert len(kept.to_bytes()) < whole


def test_predict_takes_a_rate_and_a_budget(model, place, picture, capsys):
    config = str(place / "VariableRateBottleneck.yaml")
    budget = len(model.encode(picture, rate=5.12).to_bytes()) - 1
    sizes = {}
    for flags in (("--rate", "5.12"), ("--rate", "20.48"), ("--max-bytes", str(budget))):
        assert predict_main(["--config", config, "--json", *flags, str(picture)]) == 0
        sizes[flags[0] + flags[1]] = json.loads(capsys.readouterr().out)["payload_bytes"]
    fine, coarse, kept = sizes.values()
    assert fine == budget + 1
    assert coarse <= kept <= budget
    assert predict_main(["--config", config, "--max-bytes", "50", str(picture)]) == 1
    assert "picture.png: the image takes" in capsys.readouterr().err
    assert predict_main(["--config", config, "--rate", "99", str(picture)]) == 1
    assert "β 99: this model has" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        predict_main(["--config", config, "--rate", "1", "--max-bytes", "9", str(picture)])
    assert ended.value.code == 2


def test_edge_takes_them_too(folder, picture, capsys, tmp_path):
    flags = ["--model", str(folder), "--save-payloads", str(tmp_path), str(picture)]
    budget = len(EdgeEncoder(folder).encode(picture, rate=5.12).to_bytes()) - 1
    assert edge_main(["--max-bytes", str(budget), *flags]) == 0
    assert len((tmp_path / "picture.ladon").read_bytes()) <= budget
    assert edge_main(["--max-bytes", "50", *flags]) == 1
    assert f"{picture}: the image takes" in capsys.readouterr().err
    assert edge_main(["--deadline-ms", "50", *flags]) == 2
    assert "--deadline-ms: name the --server" in capsys.readouterr().err


def test_a_links_rate_follows_the_latest_answers():
    link = Link(weight=0.5)
    assert link.bytes_per_second is None
    assert link.budget(1.0) is None
    link.note(1000, 0.1)
    assert link.bytes_per_second == pytest.approx(10_000)
    link.note(1000, 0.3)  # (500 + 500) bytes in (0.05 + 0.15) s
    assert link.bytes_per_second == pytest.approx(5_000)
    assert link.budget(0.1) == 500
    assert link.budget(-1.0) == 0
    link.note(1000, 0.0)
    assert link.bytes_per_second == pytest.approx(5_000)


def test_a_deadline_becomes_a_budget(folder, monkeypatch):
    device, seen = EdgeEncoder(folder), []
    monkeypatch.setattr("time.perf_counter", lambda: 0.0)  # encoding takes no time here
    pace = Pace(device.manifest, deadline_ms=100)

    def next_payload():
        payload = pace.encode(device, pixels(), lambda *_: None)
        seen.append(payload)
        return len(payload.to_bytes())

    assert next_payload() > 0
    assert seen[0].rate == LEVELS - 1  # nothing is known of the link
    pace.note(1000, 0.06, 0.04)  # 50,000 bytes/s; 60 ms are left of the deadline
    assert next_payload() <= 3000
    assert seen[1].rate < LEVELS - 1
    pace.note(1000, 10.04, 0.04)
    pace.note(1000, 10.04, 0.04)
    next_payload()
    assert seen[2].rate == LEVELS - 1  # too slow for any: the coarsest all the same


def test_a_device_of_one_rate_takes_no_wishes(place, picture, tmp_path):
    with ladon.load(written(place, key="FPBasedResNetBottleneck")) as fixed:
        export_edge(fixed, tmp_path / "edge", origin={}, licence="MIT")
    device = EdgeEncoder(tmp_path / "edge")
    with pytest.raises(UsageError, match="has one rate"):
        device.encode(pixels(), rate=1.28)
    assert edge_main(["--model", str(tmp_path / "edge"), "--rate", "1.28", str(picture)]) == 2
