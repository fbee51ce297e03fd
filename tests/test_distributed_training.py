"""The same global batches in one, two and four processes: the same training, but for rounding.

A process that left out its share, or counted it twice, would end as far from there as a training
moves the weights; rounding ends a thousandth of that away.
"""

from __future__ import annotations

import json
import math
from functools import cache

import pytest
import torch
from processes import WORKER, several_processes
from tiny import TinyExperiment
from training_runs import fresh

from ladon.data.digits import make_digit_scenes
from ladon.models.checkpoint import load_safely

# losses averaged over images; one process has a batch of four, four have one image each
_MEAN = {"criterion": {"kwargs": {"reduction": "mean"}}}
_SUMMED = dict.fromkeys(("layer1", "layer2", "layer3", "layer4"), _MEAN)
_RATE = {"criterion": {"kwargs": {"reduction": "batchmean"}}, "weight": 1e-4}
_VALIDATION = {"dataset_id": "digit_scenes/val", "kwargs": {"batch_size": 3}}
# Adam divides by the size of a gradient, also where that is nothing but rounding
_ADAM = {"optimizer": {"kwargs": {"lr": 2e-4, "eps": 1e-2}}}
# slow enough that what one ReLU does otherwise, for a difference in the last bit, stays small
_SLOWLY = {"scheduler": {"kwargs": {"max_lr": 1e-3}}}


def _values(family: str, batch: int) -> dict:
    kwargs = {"kwargs": {"batch_size": batch, "num_workers": 0, "drop_last": True}}
    if family != "classification":
        return {"train__train_data_loader": kwargs, "train__optimizer": _ADAM["optimizer"]}
    stage = {"num_epochs": 1, "train_data_loader": kwargs, "val_data_loader": _VALIDATION}
    terms = {"kwargs": {"sub_terms": {**_SUMMED, "bpp": _RATE}}}
    first = stage | _ADAM | {"scheduler": {"kwargs": {"max_lr": [1e-4, 1e-4, 1e-3]}}}
    return {
        "train__stage1": first | {"criterion": terms},
        "train__stage2": stage | _SLOWLY,
    }


@pytest.fixture(scope="module")
def train(lab, tmp_path_factory):
    """Trains a family's student in so many processes, once.

    Returns its weights at the start and at the end, and the records of its epochs. There are
    sixteen scenes to train on, four global batches, and seven to validate on.
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
        start = own.folder / f"{name}_start.pt"
        several_processes([WORKER, "split", start, family, *flags], [0] * count)
        last = load_safely(log.with_suffix("") / "last.pt")
        assert last["progress"]["finished"]
        lines = (log.with_suffix("") / "metrics.jsonl").read_text().splitlines()
        return torch.load(start), last["model"], [json.loads(line) for line in lines]

    return run


def distance(ours: dict, theirs: dict) -> float:
    """Of all weights together."""
    pairs = ((value, theirs[name]) for name, value in ours.items() if value.is_floating_point())
    return math.sqrt(sum(float((a.double() - b.double()).square().sum()) for a, b in pairs))


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("family", ["classification", "detection", "segmentation"])
def test_training_does_not_depend_on_the_number_of_processes(train, family, count):
    (start, one, epochs), (other_start, several, theirs) = (train(family, n) for n in (1, count))
    assert distance(start, other_start) == 0
    moved, apart = distance(one, start), distance(one, several)
    assert apart < 1e-3 * moved, (apart, moved)
    assert {epoch["steps"] for epoch in epochs + theirs} == {4}
    assert len(epochs) == len(theirs) == (2 if family == "classification" else 1)
