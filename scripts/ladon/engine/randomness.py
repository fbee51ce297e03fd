"""Randomness by design: where each random draw of a run comes from.

- data order: (seed, epoch); augmentation: (seed, epoch, sample) — see `ladon.data.loaders`;
- quantisation noise: a generator of the student — see `ladon.bottlenecks`;
- the rest (initial weights, dropout, the detector's sampling): the global generators, seeded here
  per process, and saved with `last` so that a resumed run draws on.
"""

from __future__ import annotations

import random
from typing import Any, cast

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, numpy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def global_states(device: torch.device) -> dict[str, Any]:
    """Return the states of the global generators, readable with `weights_only`.

    Args:
        device: of the run; other devices' generators are left alone, and so are the devices.
    """
    # of the legacy form, a tuple
    name, keys, position, has_gauss, gauss = cast(tuple[Any, ...], np.random.get_state())
    return {
        "python": random.getstate(),
        "numpy": (name, keys.tolist(), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def restore_global_states(states: dict[str, Any], device: torch.device) -> None:
    """Put the global generators where `global_states` found them.

    Args:
        states: from `global_states`.
        device: of the run; its generator stays as it is if the states are of another type's.
    """
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
