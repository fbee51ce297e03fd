"""Part `fused`: a sweep's test in one pass against one run per β, both by `scripts/sweep.py`.

Where the time goes is stated apart: what a fused sweep shares is start-up and loading, and what
it does not share is each model's network.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import torch

from ladon.benchmark.pairing import alternate
from ladon.benchmark.parts import Bench, root
from ladon.benchmark.results import Measurement, PartResult, Spread
from ladon.benchmark.workload import CONFIGS, make_workload
from ladon.errors import LadonError
from ladon.launch import child_command
from ladon.models import write_checkpoint

_TASK = "image_classification"
_CONFIG = CONFIGS[_TASK].replace("beta0.32", "beta{beta}")
_BETAS, _QUICK_BETAS = ("0.32", "1.28", "5.12"), ("0.32", "1.28")
_NUM_IMAGES, _QUICK_IMAGES = 16, 2
# in metrics.json; of a fused run start-up, loading and all of it are shared by its models
_SHARES = {"start-up": "startup_s", "loading": "loading_s", "network": "network_s"}


def measure(bench: Bench) -> PartResult:
    """Tests the same checkpoint under several β, fused and one after the other."""
    betas = _QUICK_BETAS if bench.quick else _BETAS
    num_images = _QUICK_IMAGES if bench.quick else _NUM_IMAGES
    work = make_workload(_TASK, bench.folder / "data", num_images)
    checkpoint = bench.folder / "student.pt"
    write_checkpoint(checkpoint, work.model, best_value=0.0)
    ways = {way: _Sweep(bench, way, betas, checkpoint) for way in ("fused", "separate")}
    pairs = alternate(ways["fused"], ways["separate"], bench.repeats, check=_check)
    found = PartResult(facts={"betas": ", ".join(betas), "images": num_images})
    found.measurements.append(pairs.duration("sweep, whole: fused against separate", "s", 1.0))
    for name in _SHARES:
        if any(sweep.seconds[name] for sweep in ways.values()):  # a GPU's network is not timed
            ours, theirs = (Spread.of(sweep.seconds[name]) for sweep in ways.values())
            found.measurements.append(Measurement(f"of these, {name}", "s", ours, theirs))
    return found


class _Sweep:
    """One way to run the sweep; calling it runs it, and returns each β's results.

    Attributes:
        seconds: of each call and share, added up over what the way repeats.
    """

    def __init__(self, bench: Bench, way: str, betas: tuple[str, ...], checkpoint: Path) -> None:
        self._way, self._betas = way, betas
        self._logs = bench.folder / way
        self._folder = bench.folder
        self._command = [
            *(*child_command("sweep"), "--task", _TASK),
            *(["--fused"] if way == "fused" else []),
            *("-test_only", "-student_only", "--device", bench.device, "--betas", *betas),
            *("--config", str(root() / _CONFIG), "--data_root", str(bench.folder / "data")),
            *("--run_log", str(self._logs / "beta{beta}.txt")),
            *("--set", f"models.student_model.dst_ckpt={checkpoint}"),
        ]
        self.seconds: dict[str, list[float]] = {name: [] for name in _SHARES}

    def __call__(self) -> list[dict[str, Any]]:
        environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
        done = subprocess.run(
            self._command, cwd=self._folder, env=environment, capture_output=True, text=True
        )
        if done.returncode:
            raise LadonError(f"the {self._way} sweep failed: {done.stderr.strip()[-300:]}")
        files = [self._logs / f"beta{beta}" / "metrics.json" for beta in self._betas]
        runs = [json.loads(file.read_text(encoding="utf-8")) for file in files]
        for name, key in _SHARES.items():
            values = [run.get(key) or run["models"]["student"].get(key) for run in runs]
            if None in values:
                continue
            is_shared = self._way == "fused" and name != "network"
            self.seconds[name].append(values[0] if is_shared else sum(values))
        return [run["models"]["student"] for run in runs]


def _check(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        for key in ("metrics", "payload_bytes", "data_size_kb", "num_images"):
            if mine[key] != other[key]:
                raise LadonError(f"fused and separate sweep differ in {key}")
