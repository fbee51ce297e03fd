"""Random numbers that depend on where a sample stands, not on which process draws them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

EVALUATION = 0xFFFFFFFF
"""Stands for the epoch in evaluation, so that its draws differ from every training epoch's."""

ORDER = 0xFFFFFFFF
"""Stands for the sample's index where an epoch's order is drawn."""


@contextmanager
def seeded_rng(*entropy: int) -> Iterator[None]:
    """Seed `random`, numpy's and torch's global CPU generators, and restore them on leaving.

    CUDA generators stay untouched: no dataset draws from them.

    Args:
        *entropy: integers (seed, epoch, index, ...); other integers give unrelated draws.
    """
    words = np.random.SeedSequence([value & (2**64 - 1) for value in entropy])
    python_seed, numpy_seed, torch_seed = (int(word) for word in words.generate_state(3))
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        random.seed(python_seed)
        np.random.seed(numpy_seed)
        # torch.manual_seed would seed CUDA, too.
        torch.default_generator.manual_seed(torch_seed)
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])
