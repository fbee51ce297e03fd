"""Training as a whole: resuming, interruption, the best checkpoint, and when coding begins."""

from __future__ import annotations

import math
import signal

import pytest
from training_runs import assert_same_run, epochs, fresh, interrupt_after

from ladon.engine import train as train_module
from ladon.engine.stage import Stage
from ladon.models.checkpoint import load_safely, read_checkpoint


def validating(lab, name, **values):
    """A classifier that is validated in both stages."""
    loader = {"dataset_id": "digit_scenes/val", "kwargs": {"batch_size": 32}}
    return fresh(lab, "classification", name, train__stage1__val_data_loader=loader, **values)


def test_resumed_equals_uninterrupted(own_lab, monkeypatch):
    """One run, stopped after each step but the last: in an epoch, at its end, in stage 2."""
    plan = {  # two steps an epoch in either stage
        "train__stage1": {"num_epochs": 2},
        "train__log_freq": 1,
        "test__test_data_loader__kwargs": {"batch_size": 4},
    }
    whole, parts = (fresh(own_lab, "classification", n, **plan) for n in ("whole", "parts"))
    assert own_lab.run("classification", "-student_only", config=whole) == 0
    flags = ["-student_only"]
    for stops in range(1, 6):
        with monkeypatch.context() as patched:
            interrupt_after(patched, 1)
            assert own_lab.run("classification", *flags, config=parts) == 130
        assert own_lab.log("parts").count("add --resume") == stops
        assert not (own_lab.folder / "logs" / "parts" / "metrics.json").exists()
        flags = ["-student_only", "--resume"]
    assert own_lab.run("classification", *flags, config=parts) == 0
    assert own_lab.log("parts").count("Resuming from") == 5
    assert_same_run(own_lab, "whole", "parts")


@pytest.mark.parametrize("family", ["detection", "segmentation"])
def test_heads_resume_exactly_in_the_middle_of_an_epoch(own_lab, monkeypatch, family):
    """The detector's sampling and the head's dropout draw from the global generators."""
    assert own_lab.run(family, config=fresh(own_lab, family, "whole")) == 0
    parts = fresh(own_lab, family, "parts")
    with monkeypatch.context() as patched:
        interrupt_after(patched, 1, signal.SIGTERM)
        assert own_lab.run(family, config=parts) == 143
    assert own_lab.run(family, "--resume", config=parts) == 0
    assert_same_run(own_lab, "whole", "parts")


def test_a_batch_that_was_seen_is_not_loaded_again(own_lab, monkeypatch):
    config = fresh(own_lab, "small", "seen", train__train_data_loader__kwargs={"batch_size": 8})
    with monkeypatch.context() as patched:
        interrupt_after(patched, 4)
        assert own_lab.run("small", config=config) == 130
    loaded = []
    from ladon.data import loaders

    original = loaders.SeededDataset.__getitem__
    monkeypatch.setattr(
        loaders.SeededDataset,
        "__getitem__",
        lambda self, pair: loaded.append(pair) or original(self, pair),
    )
    assert own_lab.run("small", "--resume", config=config) == 0
    assert len(loaded) == 40 - 4 * 8


def test_resumed_with_other_workers_equals_uninterrupted(own_lab, monkeypatch):
    whole = fresh(own_lab, "small", "whole", train__num_epochs=1)
    assert own_lab.run("small", config=whole) == 0
    parts = fresh(own_lab, "small", "parts", train__num_epochs=1)
    with monkeypatch.context() as patched:
        interrupt_after(patched, 1, signal.SIGTERM)
        assert own_lab.run("small", config=parts) == 143
    workers = ("--set", "train.train_data_loader.kwargs.num_workers=2")
    assert own_lab.run("small", "--resume", *workers, config=parts) == 0
    assert_same_run(own_lab, "whole", "parts")


def test_results_do_not_depend_on_workers(own_lab):
    for workers in (0, 2):
        config = fresh(
            own_lab,
            "small",
            f"workers{workers}",
            train__train_data_loader__kwargs={"num_workers": workers},
        )
        assert own_lab.run("small", config=config) == 0
    assert_same_run(own_lab, "workers0", "workers2")


def test_resume_of_a_finished_run_only_tests(own_lab, monkeypatch):
    config = fresh(own_lab, "small", "done")
    assert own_lab.run("small", config=config) == 0
    monkeypatch.setattr(Stage, "step", lambda *_: pytest.fail("trained again"))
    assert own_lab.run("small", "--resume", config=config) == 0
    assert "Nothing is left to train: all 1 epochs are done" in own_lab.log("done")


def test_resume_without_anything_to_resume_starts_anew(own_lab):
    assert own_lab.run("small", "--resume", config=fresh(own_lab, "small", "anew")) == 0
    assert "Nothing to resume" in own_lab.log("anew")


def test_start_epoch_begins_in_the_stage_that_holds_it(own_lab):
    config = fresh(
        own_lab, "classification", "later", train__stage2={"num_epochs": 2}, train__log_freq=1
    )
    assert own_lab.run("classification", "--start_epoch", "2", config=config) == 0
    log = own_lab.log("later")
    assert "Started stage1" not in log
    assert "Updating entropy bottleneck" in log
    assert [e["epoch"] for e in epochs(own_lab, "later")] == [2]


def test_overridden_epochs_move_the_start_of_entropy_coding(own_lab):
    """One value, derived."""
    config = validating(own_lab, "moved")
    flags = ["-student_only", "--set", "train.stage1.num_epochs=2"]
    assert own_lab.run("classification", *flags, config=config) == 0
    log = own_lab.log("moved")
    assert log.index("Best acc1") < log.index("Updating entropy bottleneck")
    assert log.index("Started stage2: epochs 2-2") < log.index("Updating entropy bottleneck")


def test_not_finite_loss_stops_the_run_and_keeps_the_last_good_state(own_lab, monkeypatch):
    config = fresh(own_lab, "classification", "broken", train__stage1={"num_epochs": 2})
    original = Stage.student_loss

    def student_loss(self, *args):
        student_loss.calls += 1
        return original(self, *args) * (math.nan if student_loss.calls == 4 else 1.0)

    student_loss.calls = 0
    monkeypatch.setattr(Stage, "student_loss", student_loss)
    assert own_lab.run("classification", config=config) == 1
    log = own_lab.log("broken")
    assert "loss is nan in stage1, epoch 1, step 1" in log
    assert "layer1" in log
    assert "bpp" in log
    last = load_safely(own_lab.folder / "logs" / "broken" / "last.pt")
    assert (last["progress"]["epoch"], last["progress"]["step"]) == (1, 0)
    assert all(bool(t.isfinite().all()) for t in last["model"].values() if t.is_floating_point())


def scores(monkeypatch, values):
    """Give each validation the next of these values."""
    values = iter(values)
    original = train_module.evaluate_all

    def evaluate_all(models, dataset, loader, task, *args, **kwargs):
        results = original(models, dataset, loader, task, *args, **kwargs)
        for found in results:
            found.metrics[task.decisive.key] = next(values)
        return results

    monkeypatch.setattr(train_module, "evaluate_all", evaluate_all)


def test_best_of_an_early_stage_survives_to_the_final_test(own_lab, monkeypatch):
    """It was saved without CDF tables, and the tested model has them."""
    scores(monkeypatch, [50.0, 40.0])
    config = validating(own_lab, "early")
    assert own_lab.run("classification", "-student_only", config=config) == 0
    found = own_lab.metrics("early")["models"]["student"]
    assert found["payload_bytes"]["mean"] > 0
    best = read_checkpoint(own_lab.folder / "early.pt", "test")
    assert best.best_value == 50.0
    tables = best.model["bottleneck_layer.entropy_bottleneck._quantized_cdf"]
    assert tables.numel() > 0, "who decodes must find the tables in the file"
    assert own_lab.run("classification", "-test_only", "-student_only", config=config) == 0
    again = own_lab.metrics("early")["models"]["student"]
    assert again["metrics"] == found["metrics"]
    assert again["payload_bytes"] == found["payload_bytes"]


def test_equal_value_does_not_replace_the_best(own_lab, monkeypatch):
    scores(monkeypatch, [50.0, 50.0])
    config = validating(own_lab, "equal")
    assert own_lab.run("classification", "-student_only", config=config) == 0
    assert [e["best"] for e in epochs(own_lab, "equal")] == [True, False]


def test_a_new_validation_set_starts_a_new_best(own_lab, monkeypatch):
    """COCO's mean IoU must not keep VOC's checkpoint from being written."""
    scores(monkeypatch, [80.0, 20.0])
    config = validating(own_lab, "sets")
    text = config.read_text()
    data = own_lab.data_root / "digit_scenes" / "train"
    other = (
        "datasets:\n  other/val: !import_call\n    key: ladon.data.folder.ImageFolder\n    init:\n"
        f"      kwargs: {{root: {data}, transform: !import_call "
        "{key: torchvision.transforms.ToTensor}}\n"
    )
    config.write_text(text + other)
    flags = ["-student_only", "--set", "train.stage2.val_data_loader.dataset_id=other/val"]
    assert own_lab.run("classification", *flags, config=config) == 0
    assert [e["best"] for e in epochs(own_lab, "sets")] == [True, True]
    assert read_checkpoint(own_lab.folder / "sets.pt", "test").best_value == 20.0
