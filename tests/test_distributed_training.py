"""The same global batches in one, two and four processes: the same training, but for rounding."""

from __future__ import annotations

import json
from functools import cache
from itertools import product

import pytest
import torch
from processes import WORKER, several_processes
from tiny import TinyExperiment
from training_runs import fresh

from ladon.data.digits import make_digit_scenes
from ladon.models.checkpoint import load_safely

# losses averaged over images; one process has a batch of four, four have one image each
_MEAN = {"criterion": {"kwargs": {"reduction": "mean"}}}
_SUMMED = {name: _MEAN for name in ("layer1", "layer2", "layer3", "layer4")}
_RATE = {"criterion": {"kwargs": {"reduction": "batchmean"}}, "weight": 1e-4}
_VALIDATION = {"dataset_id": "digit_scenes/val", "kwargs": {"batch_size": 3}}


# of weights that four steps move by some thousandths: a process that left out its share, or counted
# it twice, would differ by as much. A box more or less among a detector's samples is no rounding.
TOLERANCE = {"classification": 1e-5, "segmentation": 1e-5, "detection": 1e-4}
# Adam divides by the size of a gradient, also where that is nothing but rounding
_ADAM = {"optimizer": {"kwargs": {"eps": 1e-2}}}


def _values(family: str, batch: int) -> dict:
    kwargs = {"kwargs": {"batch_size": batch, "num_workers": 0, "drop_last": True}}
    if family != "classification":
        return {"train__train_data_loader": kwargs, "train__optimizer": _ADAM["optimizer"]}
    stage = {"num_epochs": 1, "train_data_loader": kwargs, "val_data_loader": _VALIDATION}
    terms = {"kwargs": {"sub_terms": {**_SUMMED, "bpp": _RATE}}}
    return {"train__stage1": stage | _ADAM | {"criterion": terms}, "train__stage2": stage}


@pytest.fixture(scope="module")
def train(lab, tmp_path_factory):
    """Trains a family's student in so many processes, once; returns the folder of its run.

    There are sixteen scenes to train on, four global batches, and seven to validate on.
    """
    root = tmp_path_factory.mktemp("sixteen")
    make_digit_scenes(root, num_train=16, num_val=7)
    own = TinyExperiment(root / "lab", root)
    (own.folder / "ckpt").mkdir()
    for family in ("teacher", "classification"):
        own.checkpoint(family).symlink_to(lab.checkpoint(family))

    @cache
    def run(family: str, count: int):
        name = f"{family}_{count}"
        config = fresh(own, family, name, **_values(family, 4 // count))
        log = own.folder / "logs" / f"{name}.txt"
        flags = ["--config", config, "--run_log", log, "--device", "cpu", "-student_only"]
        several_processes([WORKER, "split", family, *flags], [0] * count)
        return log.with_suffix("")

    return run


def _state(folder) -> dict[str, torch.Tensor]:
    """The weights at the end."""
    content = load_safely(folder / "last.pt")
    assert content["progress"]["finished"]
    return content["model"]


@pytest.mark.parametrize(
    ("family", "count"),
    [
        ("classification", 2),
        *(
            pytest.param(family, count, marks=pytest.mark.slow)
            for family, count in product(("classification", "detection", "segmentation"), (2, 4))
            if (family, count) != ("classification", 2)
        ),
    ],
)
def test_training_does_not_depend_on_the_number_of_processes(train, family, count):
    folders = [train(family, number) for number in (1, count)]
    one, several = map(_state, folders)
    for name, value in one.items():
        torch.testing.assert_close(several[name], value, rtol=0, atol=TOLERANCE[family], msg=name)
    one, several = (
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in folders
    )
    assert {epoch["steps"] for epoch in one + several} == {4}
    assert len(one) == len(several) == (2 if family == "classification" else 1)
