"""Evaluation on a GPU: what must not depend on the device, the batch or what runs ahead."""

from __future__ import annotations

import copy

import pytest
import torch
import warm
from devices import (
    DEVICES,
    FAMILIES,
    GPU,
    assert_same_scores,
    differing,
    each_family,
    on_each_device,
    recorded,
    scored,
    trained,
    waits,
)
from fusing import config_for, fused, separately
from stages import make_models
from three_heads import picture, saved, single_models, three_headed
from tiny import ROOT, SCRIPTS

from ladon.bottlenecks import entropy_coding
from ladon.codec import LatentCoder
from ladon.models import find_bottleneck, update_bottleneck
from ladon.models.inference import inference
from ladon.models.precision import forward_only
from ladon.tasks import TASKS

BATCHES = (1, 5, 16)


def batch_of(size: int) -> dict:
    return {"test__test_data_loader__kwargs": {"batch_size": size}}


@each_family
def test_payloads_depend_on_neither_batch_nor_run(lab, monkeypatch, family, device):
    trained(lab, family)
    found, kept = [], []
    for number, batch in enumerate((*BATCHES, BATCHES[-1])):
        with recorded(monkeypatch) as payloads:
            name = f"{family}_{device}_batch{number}"
            found.append(scored(lab, family, name, device, **batch_of(batch)))
        kept.append(sorted(payloads.payloads))  # batches under way at once come in any order
    assert len(kept[0]) == 12
    for payloads, other in zip(kept[1:], found[1:], strict=True):
        assert payloads == kept[0]
        assert other["payload_bytes"] == found[0]["payload_bytes"]
        assert other["data_size_kb"] == found[0]["data_size_kb"]
        assert_same_scores(other, found[0], device)


@each_family
def test_payloads_are_the_cpus(lab, monkeypatch, record_property, family, device):
    """But for rounding: of 10,000 symbols one at most is another, and that by 1."""
    trained(lab, family)
    kept = []
    for place in ("cpu", device):
        with recorded(monkeypatch) as payloads:
            # all twelve in one batch: their order is the data set's
            scored(lab, family, f"{family}_{place}_of_{device}", place, **batch_of(16))
        kept.append(payloads)
    coder = kept[0].coder
    count, total, step = differing(*(payloads.symbols(coder) for payloads in kept))
    record_property("differing_symbols", count)
    record_property("symbols", total)
    assert total > 10_000
    assert count <= total / 10_000
    assert step <= 1


@each_family
def test_modes_agree_and_bf16_changes_no_payload(lab, family, device):
    full, encode, half, estimate = (
        scored(lab, family, f"{family}_{device}_{flags[-1]}", device, *flags)
        for flags in (
            ("--evaluation", "full"),
            ("--evaluation", "encode"),
            ("--precision", "bf16"),
            ("--evaluation", "estimate"),
        )
    )
    assert_same_scores(encode, full, device)
    assert full["payload_bytes"] == encode["payload_bytes"] == half["payload_bytes"]
    truth = full["payload_bytes"]["mean"]
    assert estimate["payload_bytes"]["mean"] == pytest.approx(truth, rel=1e-3, abs=16)


@on_each_device
def test_a_latent_is_coded_as_on_the_cpu(device):
    _, model = make_models()
    update_bottleneck(model)
    images = torch.randn(3, 3, 96, 96) * 3
    latent = model.bottleneck_layer.encoder(images).detach()
    on_cpu = LatentCoder(find_bottleneck(model).entropy_bottleneck)
    payloads = on_cpu.encode(latent)
    there = LatentCoder(find_bottleneck(copy.deepcopy(model).to(device)).entropy_bottleneck)
    assert there.encode(latent.to(device)) == payloads
    decoded = there.decode(payloads, latent.shape[-2:])
    assert decoded.device.type == device
    assert torch.equal(decoded.cpu(), on_cpu.decode(payloads, latent.shape[-2:]))
    for channels_last in (latent, latent.contiguous(memory_format=torch.channels_last)):
        assert there.encode(channels_last.to(device)) == payloads


@on_each_device
def test_flags_are_as_before_after_evaluations(lab, device):
    names = ("enabled", "deterministic", "benchmark", "allow_tf32")

    def flags() -> list:
        products = torch.backends.cuda.matmul.allow_tf32
        return [*(getattr(torch.backends.cudnn, name) for name in names), products]

    before = flags()
    for number in range(2):
        scored(lab, "classification", f"flags{number}_{device}", device, **batch_of(5))
        assert flags() == before


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda:0", marks=GPU)])
def test_a_device_by_its_number(lab, device):
    found = scored(lab, "classification", f"named_{device}", device)
    assert found["payload_bytes"]["n"] == 12


@on_each_device
@torch.inference_mode()
def test_three_heads_answer_as_on_the_cpu(tmp_path, device):
    model = three_headed(saved(single_models(), tmp_path))
    images = [picture(), picture((70, 120))]
    answers, sizes = [], []
    for place in ("cpu", device):
        there = copy.deepcopy(model).to(place, memory_format=torch.channels_last)
        with entropy_coding(there) as payloads:
            answers.append([there([image.to(place)]) for image in images])
            sizes.append(payloads.pop()[0])
    assert sizes[0] == pytest.approx(sizes[1], abs=8)
    assert len(sizes[0]) >= len(images)
    for expected, found in zip(*answers, strict=True):
        for head in ("classification", "segmentation"):
            torch.testing.assert_close(
                found[head].cpu(), expected[head], rtol=1e-2, atol=1e-2 * expected[head].std()
            )
        boxes, others = found["detection"][0], expected["detection"][0]
        assert boxes["boxes"].device.type == device
        assert len(boxes["scores"]) == pytest.approx(len(others["scores"]), rel=0.1)
        best, other = boxes["scores"].max().cpu(), others["scores"].max()
        torch.testing.assert_close(best, other, rtol=1e-2, atol=1e-3)


@pytest.fixture(scope="module")
def two_betas(lab):
    """Two classifiers of other weights, trained on the CPU."""
    for number, beta in enumerate(("0.32", "5.12")):
        config = config_for(lab, "classification", beta, "gpu-sweep")
        flags = ("--seed", str(number), "-student_only")
        assert lab.run("classification", *flags, config=config, log=f"made{number}") == 0
    return lab


@on_each_device
def test_a_fused_sweep_equals_separate_runs(two_betas, device):
    lab, group, flags = two_betas, "gpu-sweep", ("-test_only", "-student_only", "--device", device)
    assert separately(lab, "classification", group, f"one-{device}", *flags) == [0, 0]
    assert fused(lab, "classification", group, f"all-{device}", *flags) == 0
    sizes = []
    for beta in ("0.32", "5.12"):
        one, together = (lab.metrics(f"{n}-{device}-beta{beta}") for n in ("one", "all"))
        one, together = one["models"]["student"], together["models"]["student"]
        assert together["payload_bytes"] == one["payload_bytes"]
        assert_same_scores(together, one, device)
        sizes.append(one["payload_bytes"])
    assert sizes[0] != sizes[1]


@on_each_device
@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_is_launched_without_waiting(lab, monkeypatch, record_property, family, device):
    """Up to the payload's copy the host never waits; only a detector's boxes make it wait."""
    from ladon.config import load_config
    from ladon.models import build_model, load_into, read_checkpoint

    trained(lab, family)
    config = load_config(lab.config(family))
    config.import_dependencies()
    task = TASKS[SCRIPTS[family]]
    key = next(f"models.{s}" for s in task.student_sections if f"models.{s}" in config)
    model = build_model(config.build(config.section(key)), task.model_kind, key, load_weights=False)
    load_into(model, read_checkpoint(lab.checkpoint(family), "test"))
    model = model.to(device, memory_format=torch.channels_last).eval()
    images = torch.rand(4, 3, 96, 96, generator=torch.Generator().manual_seed(0)).to(device)
    images = list(images) if family == "detection" else images
    stub = [b"0000"] * 4
    monkeypatch.setattr(LatentCoder, "encode", lambda self, latent: stub[: len(latent)])
    mode = "warn" if family == "detection" else "error"
    with inference(model, "encode"), forward_only(torch.device(device)):
        task.predict(model, images)  # libraries set themselves up, and the encoder is recorded
        with waits(device, mode) as places:
            task.predict(model, images)
    record_property("waits", len(places()))
    record_property("places", " ".join(sorted(set(places()))))


@on_each_device
def test_a_label_outside_the_classes_is_one_line(lab, tmp_path, device):
    """In a process of its own: a GPU's context is of no use after it."""
    config = lab.config(
        "teacher", f"few_{device}", models__model__dst_ckpt=str(tmp_path / "few.pt")
    )
    command = [
        str(ROOT / "scripts" / "image_classification.py"),
        "--config",
        str(config),
        "--run_log",
        str(tmp_path / "few.txt"),
        "--device",
        device,
        "--set",
        "models.model.kwargs.num_classes=5",
    ]
    done = warm.run(command)
    assert done.returncode in (1, 2), done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if "\tERROR\t" in line]
    assert len(lines) == 1, done.stderr
    assert "class" in lines[0]


def test_both_devices_are_asked_for():
    assert DEVICES[0] == "cpu"
    assert [mark.name for mark in DEVICES[1].marks] == ["gpu", "skipif"]
