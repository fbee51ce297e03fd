"""Checkpoints as the paper's authors published them."""

from __future__ import annotations

import argparse
import collections
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.ops.misc import FrozenBatchNorm2d

from ladon.bottlenecks.entropy import CDF_TABLES


def without_tables(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict as it was before `update()`: with empty CDF tables."""
    return {
        name: torch.empty(0, dtype=tensor.dtype)
        if name.rsplit(".", 1)[-1] in CDF_TABLES
        else tensor
        for name, tensor in state.items()
    }


def names_of_2022(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict with the names that CompressAI 1.2.2 gave inside an entropy bottleneck."""
    renamed = {}
    for name, tensor in state.items():
        for new, old in (("matrices.", "_matrix"), ("biases.", "_bias"), ("factors.", "_factor")):
            name = name.replace(f"entropy_bottleneck.{new}", f"entropy_bottleneck.{old}")
        renamed[name] = tensor
    return renamed


def write_2022(path: Path, state: Mapping[str, Tensor], config: str, *, is_coco: bool) -> None:
    """Write a checkpoint as the 2022 scripts did (torchdistill 0.3.3's `save_ckpt`)."""
    args = argparse.Namespace(
        config=config,
        json=None,
        device="cuda",
        log="log/x.txt",
        start_epoch=0,
        seed=None,
        test_only=False,
        student_only=False,
        log_config=False,
        world_size=1,
        dist_url="env://",
        adjust_lr=False,
    )
    best: object = 67.9
    if is_coco:
        args.iou_types = ["bbox"]
        args.norm_layer = FrozenBatchNorm2d
        best = np.float64(0.354)
    content = {
        "model": collections.OrderedDict(names_of_2022(state)),
        "optimizer": {
            "state": {0: {"momentum_buffer": torch.zeros(2)}},
            "param_groups": [{"lr": 0.001, "momentum": 0.9, "params": [0]}],
        },
        "best_value": best,
        "lr_scheduler": {
            "milestones": collections.Counter([5]),
            "gamma": 0.1,
            "base_lrs": [0.001],
            "last_epoch": 9,
            "_last_lr": [1e-4],
        },
        "args": args,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
