"""Whole runs on a GPU, trained and tested: in float32 and bf16, compiled and not."""

from __future__ import annotations

import shutil

import pytest
from devices import GPU
from training_runs import fresh

compiler = pytest.mark.skipif(
    shutil.which("cc") is None and shutil.which("gcc") is None,
    reason="torch.compile needs a C compiler",
)
RUNS = {
    # the longest first: the others run beside them
    "compile": ("classification", ("--compile",)),
    "compile_bf16": ("segmentation", ("--compile", "--precision", "bf16")),
    "plain": ("classification", ()),
    "bf16": ("classification", ("--precision", "bf16")),
    "detection_bf16": ("detection", ("--precision", "bf16")),
    "segmentation_bf16": ("segmentation", ("--precision", "bf16")),
}
_COMPILES = [name for name in RUNS if name.startswith("compile")]


@pytest.mark.parametrize(
    ("name", "device"),
    [
        ("bf16", "cpu"),
        *(pytest.param(name, "cuda", marks=(*GPU, compiler)) for name in _COMPILES),
        *(pytest.param(name, "cuda:0", marks=GPU) for name in RUNS if name not in _COMPILES),
    ],
)
def test_training_and_test_run_through(lab, name, device):
    family, flags = RUNS[name]
    config = fresh(lab, family, f"run_{name}")
    words = ("-student_only", "--device", device, *flags)
    assert lab.run(family, *words, config=config) == 0
    found = lab.metrics(f"run_{name}")["models"]["student"]
    assert found["payload_bytes"]["n"] == 12
    assert lab.run(family, "-test_only", *words, config=config, log=f"again_{name}") == 0
    again = lab.metrics(f"again_{name}")["models"]["student"]
    assert again["payload_bytes"] == found["payload_bytes"]
