"""What the tests of fused sweeps share: β families in a tiny lab, run separately or fused."""

from __future__ import annotations

import re
from pathlib import Path

from tiny import TinyExperiment

from ladon.commands import sweep as sweep_script

BETAS = ("0.32", "5.12")
SHARED_TIMES = {"wall_time_s", "loading_s", "network_s", "images_per_s"}


def config_for(lab: TinyExperiment, family: str, beta: str, group: str, **values) -> Path:
    """A β's config; those of one group find and write the same checkpoints."""
    student = "student_model" if family == "classification" else "model"
    best = lab.folder / "ckpt" / f"{group}-beta{beta}.pt"
    values = {"beta": float(beta), f"models__{student}__dst_ckpt": str(best), **values}
    return lab.config(family, f"{group}-beta{beta}", **values)


def separately(lab: TinyExperiment, family: str, group: str, log: str, *flags: str) -> list[int]:
    return [
        lab.run(
            family,
            *flags,
            config=lab.folder / "configs" / f"{group}-beta{beta}.yaml",
            log=f"{log}-beta{beta}",
        )
        for beta in BETAS
    ]


def fused(lab: TinyExperiment, family: str, group: str, log: str, *flags: str, betas=BETAS) -> int:
    return sweep_script.main(
        [
            "--fused",
            "--task",
            family,
            "--betas",
            *betas,
            "--config",
            str(lab.folder / "configs" / f"{group}-beta{{beta}}.yaml"),
            "--run_log",
            str(lab.folder / "logs" / f"{log}-beta{{beta}}.txt"),
            "--device",
            "cpu",
            *flags,
        ]
    )


def comparable(lab: TinyExperiment, log: str) -> dict:
    """A run's metrics.json without its own times and files."""
    content = lab.metrics(log)
    for name in ("config_sha256", "files"):  # paths are in the config
        content["replay"].pop(name)
    for name in ("finished", "fused_with", "startup_s"):
        content.pop(name, None)
    for model in content["models"].values():
        for name in SHARED_TIMES:
            model.pop(name)
    return content


def result_lines(lab: TinyExperiment, log: str) -> list[str]:
    """The log's lines from the first test on, without times and places."""
    lines = [line.split("\t", 2)[2] for line in lab.log(log).splitlines()]
    start = next(i for i, line in enumerate(lines) if re.search(r"\[(Teacher|Student): ", line))
    return [line.split("\t")[-1] for line in lines[start:] if "Results: " not in line]
