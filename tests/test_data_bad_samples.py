"""Samples that cannot be loaded: replaced in a training, by the same ones whoever loads them."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import Dataset
from training_runs import Killed, assert_same_run, epochs, fresh, killed_when

from ladon.data.bad_samples import BadSample, BadSamples
from ladon.data.batching import unpacked_batches
from ladon.data.loaders import build_eval_loader, build_train_loader
from ladon.engine.stage import Stage
from ladon.errors import DataError
from ladon.models.checkpoint import load_safely

SKIP = ("--on_bad_sample", "skip")


class Damaged(Dataset):
    """Numbers with noise, of which some cannot be loaded."""

    def __init__(self, bad, size=20):
        self.bad, self.size = set(bad), size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        noise = torch.rand(())
        if index in self.bad:
            raise OSError(f"no {index}")
        return torch.tensor([float(index), noise]), index


def epoch(bad, workers=0, skip=0, **more):
    """Numbers of an epoch's samples with their noise, and what was noted."""
    config = {"kwargs": {"batch_size": 4, "num_workers": workers}, "requires_supp": False}
    loader = build_train_loader(Damaged(bad), config, 7, skips_bad=True, **more)
    loader.batch_sampler.set_epoch(3, skip)
    noted: list[BadSample] = []
    batches = [images for images, _ in unpacked_batches(loader, noted.extend)]
    return torch.cat(batches), noted


def test_another_sample_takes_the_place_whoever_loads_it():
    whole, none = epoch(())
    assert none == []
    found, noted = epoch((3, 11))
    assert sorted(name for name, _ in noted) == ["sample 11 of Damaged", "sample 3 of Damaged"]
    assert "cannot load sample 3 of Damaged: OSError: no 3" in {reason for _, reason in noted}
    changed = [n for n, (a, b) in enumerate(zip(whole, found, strict=True)) if not a.equal(b)]
    assert sorted(whole[changed, 0].tolist()) == [3, 11], "no other one is touched"
    assert not {3, 11} & set(found[:, 0].tolist())
    again, noted_again = epoch((3, 11), workers=2)
    assert torch.equal(again, found)
    assert noted_again == noted
    tail, _ = epoch((3, 11), skip=2)
    assert torch.equal(tail, found[8:])
    pinned, _ = epoch((3, 11), workers=1, pin_memory=False)
    assert torch.equal(pinned, found)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_data_set_that_is_gone_is_one_error(workers):
    with pytest.raises(DataError) as caught:
        epoch(range(20), workers)
    assert str(caught.value).startswith("11 samples in a row cannot be loaded, the last: cannot")
    assert "whether the data set is still there, then add --resume" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_evaluation_replaces_nothing():
    config = {"kwargs": {"batch_size": 4, "num_workers": 0}}
    with pytest.raises(DataError, match="cannot load sample 3 of Damaged"):
        list(unpacked_batches(build_eval_loader(Damaged([3]), config)))


def test_each_file_is_listed_once_and_every_time_is_counted(caplog):
    ledger = BadSamples()
    one, two = BadSample("a.png", "a.png is torn"), BadSample("b.png", "b.png is torn")
    ledger.take([one, one, two], 100)
    ledger.in_epoch = 0
    ledger.take([one], 100)
    assert [text.split(": ")[1] for text in caplog.messages] == ["a.png is torn", "b.png is torn"]
    assert (ledger.in_epoch, ledger.times) == (1, {"a.png": 3, "b.png": 1})
    assert ledger.summary() == {"samples": 4, "files": ["a.png", "b.png"]}
    other, third = BadSamples(), BadSamples()
    other.load(ledger.state())
    third.take([BadSample("c.png", "c")], 100)
    other.join([third.state()])
    assert (other.in_epoch, other.times) == (2, {"a.png": 3, "b.png": 1, "c.png": 1})
    other.load(None)
    assert other.state() == BadSamples().state()


@pytest.mark.parametrize(("size", "most"), [(40, 10), (5000, 50)])
def test_more_than_a_few_files_end_the_training(size, most):
    ledger = BadSamples()
    found = [BadSample(f"{n}.png", f"{n}.png is torn") for n in range(most + 1)]
    ledger.take(found[:-1] * 3, size)
    with pytest.raises(DataError) as caught:
        ledger.take(found[-1:], size)
    said = str(caught.value)
    assert said.startswith(f"{most + 1} of {size} samples cannot be loaded, the last: {most}.png")
    assert f"goes on with at most {most}" in said


PLAN = {"train__train_data_loader__kwargs": {"batch_size": 8}, "train__num_epochs": 2}


def tear(data) -> list[str]:
    """Cut two training images off; return their names."""
    torn = [sorted((data / "train" / digit).glob("*.png"))[0] for digit in "05"]
    for path in torn:
        path.write_bytes(path.read_bytes()[:60])
    return sorted(map(str, torn))


@pytest.mark.slow
def test_a_run_skips_lists_and_counts_and_resumes_the_same(own_lab, own_data, monkeypatch, refused):
    torn = tear(own_data)
    config = fresh(own_lab, "small", "whole", **PLAN)
    assert "cannot read image" in refused("small", config=config)
    assert own_lab.run("small", *SKIP, config=config) == 0
    log = own_lab.log("whole")
    assert [log.count(f"Skipped, another sample takes its place: cannot read image {p}")
            for p in torn] == [1, 1]  # fmt: skip
    assert [record["skipped"] for record in epochs(own_lab, "whole")] == [2, 2]
    assert own_lab.metrics("whole")["skipped"] == {"samples": 4, "files": torn}

    parts = fresh(own_lab, "small", "parts", **PLAN, train__on_bad_sample="skip",
                  train__checkpoint_steps=1)  # fmt: skip
    with monkeypatch.context() as patched:
        killed_when(patched, Stage, "step", call=8)
        with pytest.raises(Killed):
            own_lab.run("small", config=parts)
    saved = load_safely(own_lab.folder / "logs" / "parts" / "last.pt")
    assert saved["progress"]["epoch"] == 1
    assert sum(saved["bad_samples"]["times"].values()) == 2 + saved["bad_samples"]["in_epoch"]
    more = ("--set", "train.train_data_loader.kwargs.num_workers=1")
    assert own_lab.run("small", "--resume", *more, config=parts) == 0
    assert_same_run(own_lab, "whole", "parts")
    assert [record["skipped"] for record in epochs(own_lab, "parts")] == [2, 2]
    assert own_lab.metrics("parts")["skipped"] == {"samples": 4, "files": torn}


def test_without_the_flag_nothing_is_counted(lab):
    assert "skipped" not in lab.metrics("teacher")
    assert "skipped" not in epochs(lab, "teacher")[0]


@pytest.mark.parametrize(
    ("split", "flags", "workers", "said"),
    [
        ("train", SKIP, 0, "11 samples in a row cannot be loaded, the last: cannot read image "),
        pytest.param("train", (), 1, "cannot read image ", marks=pytest.mark.slow),
        pytest.param("val", SKIP, 0, "cannot read image ", marks=pytest.mark.slow),
    ],
)
def test_a_data_set_that_goes_away_ends_the_run_in_one_line(
    own_lab, own_data, monkeypatch, refused, split, flags, workers, said
):
    """In the second epoch, where an evaluation skips nothing; when it is back, the run goes on."""
    config = fresh(own_lab, "small", "gone", **PLAN)
    flags = (*flags, "--set", f"train.train_data_loader.kwargs.num_workers={workers}")
    original, calls = Stage.step, []

    def step(self, loss):
        calls.append(0)
        if len(calls) == 7:
            (own_data / split).rename(own_data / "elsewhere")
        return original(self, loss)

    with monkeypatch.context() as patched:
        patched.setattr(Stage, "step", step)
        message = refused("small", *flags, config=config)
    assert message.startswith(said)
    assert f"{own_data / split}" in message
    assert "there is no such file" in message
    assert own_lab.log("refused").count("Skipped") == 0
    (own_data / "elsewhere").rename(own_data / split)
    assert own_lab.run("small", *flags, "--resume", config=config, log="refused") == 0
    assert [record["epoch"] for record in epochs(own_lab, "refused")] == [0, 1]
    assert "Resuming from" in own_lab.log("refused")
