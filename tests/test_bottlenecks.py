"""What the protocol does for every kind: sizes, noise, and kinds that a user brings along."""

from __future__ import annotations

import json

import pytest
import torch
from hyperpriors import KINDS, WIDTHS
from sc2bench.models import layer
from students import splittable_section
from training_runs import Killed, killed_when

from ladon.bottlenecks import (
    auxiliary_loss,
    entropy_coding,
    find_bottleneck,
    known_bottleneck,
    update_bottleneck,
    use_own_noise,
)
from ladon.bottlenecks.encoder import encode_latent
from ladon.bottlenecks.entropy import set_tables, tables
from ladon.config.validate.signatures import call_problems
from ladon.engine.stage import Stage
from ladon.errors import PayloadError
from ladon.models import build_model, load_into, read_checkpoint, write_checkpoint
from ladon.models.checkpoint import load_safely
from ladon.models.inference import inference
from ladon.models.precision import forward_only

CPU = torch.device("cpu")
HYPER = [
    *(f"bottleneck_layer.{n}" for n in ("g_a", "h_a", "h_s")),
    "bottleneck_layer.entropy_bottleneck",
]


def built(key="FPBasedResNetBottleneck", **kwargs):
    torch.manual_seed(5)
    section = {"key": key, "kwargs": kwargs}
    model = build_model(splittable_section(bottleneck=section), "classification", "models.x")
    return model.eval().to(memory_format=torch.channels_last)


@pytest.fixture
def thin():
    import thin_bottleneck  # noqa: F401  (registers itself)

    return built("ThinBottleneck", channels=5)


@torch.inference_mode()
def test_the_papers_payload_has_one_part():
    model = built(num_bottleneck_channels=6, num_target_channels=64)
    update_bottleneck(model)
    bottleneck, images = find_bottleneck(model), torch.randn(2, 3, 64, 96) * 9
    expected = bottleneck.entropy_bottleneck.compress(encode_latent(bottleneck.encoder, images))
    with entropy_coding(model) as payloads:
        assert bottleneck.encode(images) == {"strings": [expected], "shape": (15, 23)}
        assert payloads.by_part == [{"latent": len(string)} for string in expected]
        payloads.pop()
        assert payloads.by_part == []
        with pytest.raises(PayloadError, match=r"payloads of 2 and 2 images: .* part \(latent\)"):
            bottleneck.decode([expected, expected], (15, 23))


def test_arguments_are_still_known_by_name():
    for key in ("FPBasedResNetBottleneck", *KINDS):
        problems = call_problems(layer.LAYER_CLASS_DICT[key], 0, {"num_target_chanels": 3})
        expected = f"{key} takes no such argument; did you mean 'num_target_channels'?"
        assert [(name, text.replace('"', "'")) for name, text in problems] == [
            ("num_target_chanels", expected)
        ]


def test_evaluations_nest_and_leave_nothing():
    model = built(num_bottleneck_channels=4, num_target_channels=64)
    update_bottleneck(model)
    bottleneck, images = find_bottleneck(model), torch.randn(1, 3, 64, 64)
    before = vars(bottleneck) | {"_coding": None}
    with torch.inference_mode(), entropy_coding(model) as outer:
        with entropy_coding(model) as inner:
            model(images)
        model(images)
        assert len(inner.nbytes) == len(outer.nbytes) == 1
    assert vars(bottleneck) == before


def test_a_registered_kind_of_sc2benchs_own_is_trained_and_codes_by_itself(monkeypatch, caplog):
    """With noise from the run's generator, the auxiliary loss, tables and checkpoints."""
    own = type("OwnBottleneck", (layer.MSHPBasedResNetBottleneck,), {})
    monkeypatch.setitem(layer.LAYER_CLASS_DICT, "OwnBottleneck", own)
    model = built("OwnBottleneck", **WIDTHS, num_target_channels=64)
    assert known_bottleneck(model) is None
    found = []
    for _ in range(2):
        use_own_noise(model, 3, CPU)
        found.append(model.train()(torch.ones(2, 3, 64, 64)))
        torch.rand(1)
    assert torch.equal(*found)
    assert auxiliary_loss(model) is not None
    update_bottleneck(model.eval())
    assert auxiliary_loss(model) is None
    with torch.inference_mode(), inference(model) as payloads:
        model(torch.ones(1, 3, 64, 64))
        assert payloads.pop() == ([], [])
    assert caplog.text.count("sc2bench codes this bottleneck itself") == 1


def test_tables_are_named_as_in_the_state_dict_and_can_be_put_elsewhere():
    source, target = (built(KINDS[0], **WIDTHS, num_target_channels=64) for _ in range(2))
    update_bottleneck(source)
    read = tables(source)
    assert len(read) == 7
    assert all(torch.equal(source.state_dict()[name], table) for name, table in read.items())
    set_tables(target, read)
    assert all(torch.equal(target.state_dict()[name], table) for name, table in read.items())


def test_a_kind_of_ones_own_needs_no_change_of_the_library(thin, tmp_path):
    """Code in parts, is folded and cast behind the payload only, and loads with its tables."""
    bottleneck, images = find_bottleneck(thin), torch.randn(3, 3, 64, 96) * 5
    update_bottleneck(thin)
    with torch.inference_mode():
        latent = encode_latent(bottleneck.down, images)
        expected = bottleneck.entropy_bottleneck.compress(latent[:, :, :4])
        for precision in ("float32", "bf16"):
            with inference(thin, precision=precision) as payloads, forward_only(CPU, precision):
                outputs = thin(images)
                assert type(bottleneck.down[1]) is torch.nn.BatchNorm2d, "a payload depends on it"
                assert [part["upper"] for part in payloads.by_part] == [len(s) for s in expected]
                assert set(payloads.by_part[0]) == {"upper", "lower"}
    write_checkpoint(tmp_path / "thin.pt", thin, best_value=0.0)
    other = built("ThinBottleneck", channels=5)
    load_into(other, read_checkpoint(tmp_path / "thin.pt", "the test"))
    with inference(other, precision="bf16"), forward_only(CPU, "bf16"):
        assert torch.equal(other(images), outputs)


def killed(monkeypatch, call, run):
    """End a run at a step of its own."""
    with monkeypatch.context() as patched:
        killed_when(patched, Stage, "step", call=call)
        with pytest.raises(Killed):
            run()


def experiment(lab, name, bottleneck, frozen, likelihoods):
    """Two epochs of two steps in each of two stages; entropy coding begins with the second."""
    rates = {
        f"bpp{number}": {
            "criterion": {
                "key": "BppLoss",
                "kwargs": {"entropy_module_path": path, "reduction": "sum"},
            },
            "weight": 0.1,
        }
        for number, path in enumerate(likelihoods)
    }
    layers = ["bottleneck_layer", "layer2", "layer3", "layer4"]
    return lab.config(
        "classification",
        name,
        models__student_model__dst_ckpt=str(lab.folder / "ckpt" / f"{name}.pt"),
        models__student_model__kwargs__bottleneck_config=bottleneck,
        dependencies=[
            {"name": "ladon.data"},
            {"name": "sc2bench.loss"},
            {"name": "thin_bottleneck"},
        ],
        train__stage1={
            "num_epochs": 2,
            "student": {"forward_hook": {"output": [*layers, *likelihoods]}},
            "optimizer": {
                "module_wise_kwargs": [{"module": "bottleneck_layer", "kwargs": {"lr": 0.002}}]
            },
            "scheduler": {"kwargs": {"max_lr": [0.002]}},
            "criterion": {"kwargs": {"sub_terms": rates}},
        },
        train__stage2={"num_epochs": 2, "student": {"frozen_modules": frozen}},
    )


CASES = {
    **{
        kind: (
            {"key": kind, "kwargs": WIDTHS},
            HYPER,
            ("bottleneck_layer.entropy_bottleneck", "bottleneck_layer.gaussian_conditional"),
            {"latent", "hyper latent"},
        )
        for kind in KINDS
    },
    "ThinBottleneck": (
        {"_delete_": True, "key": "ThinBottleneck", "kwargs": {"channels": 5, "targets": 64}},
        ["bottleneck_layer.down"],
        ("bottleneck_layer.entropy_bottleneck",),
        {"upper", "lower"},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_it_trains_is_resumed_to_the_bit_and_is_tested(own_lab, monkeypatch, name):
    bottleneck, frozen, likelihoods, parts = CASES[name]
    lab, config = own_lab, experiment(own_lab, name, bottleneck, frozen, likelihoods)
    best = lab.folder / "ckpt" / f"{name}.pt"
    flags = ("-student_only", "--overwrite")

    def run(*more):
        assert lab.run("classification", *more, config=config) == 0
        last = load_safely(lab.folder / "logs" / name / "last.pt")["model"]
        return read_checkpoint(best, "the test").model, last, lab.metrics(name)

    whole_best, whole_last, whole = run(*flags)
    student = whole["models"]["student"]
    assert student["data_size_kb"]["n"] == 12
    assert set(student["part_bytes"]) == parts
    total = sum(part["mean"] for part in student["part_bytes"].values())
    assert total == pytest.approx(student["payload_bytes"]["mean"])
    assert "Updating entropy bottleneck" in lab.log(name)
    # in the first stage's second epoch, then in the second stage's: with tables and without
    killed(monkeypatch, 3, lambda: run(*flags))
    killed(monkeypatch, 6, lambda: run("-student_only", "--resume"))
    resumed_best, resumed_last, resumed = run("-student_only", "--resume")
    for ours, theirs in ((resumed_best, whole_best), (resumed_last, whole_last)):
        assert list(ours) == list(theirs)
        assert [n for n in ours if not torch.equal(ours[n], theirs[n])] == []
    for key in ("metrics", "payload_bytes", "part_bytes", "data_size_kb"):
        assert resumed["models"]["student"][key] == student[key]
    sizes = json.loads(json.dumps(student["part_bytes"]))
    assert lab.run("classification", "-test_only", "-student_only", config=config, log="again") == 0
    assert lab.metrics("again")["models"]["student"]["part_bytes"] == sizes
