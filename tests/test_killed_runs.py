"""Runs that are killed with SIGKILL at random points end as if they had not been.

A few kills of what `tests/killing.py` does at length.
"""

from __future__ import annotations

import random

import pytest
from killing import Killing


@pytest.mark.parametrize(
    "family",
    [
        pytest.param("classification", marks=pytest.mark.slow),
        pytest.param("detection", marks=pytest.mark.slow),
        "segmentation",
    ],
)
def test_a_killed_run_ends_as_the_whole_one(own_lab, family):
    """The same command until it ends; twice it is killed among its file operations."""
    runs, rng = Killing(own_lab, family), random.Random(family)
    runs.run_whole()
    assert runs.operations > 20
    assert runs.kill("killed", rng, by="operation")
    runs.kill("killed", rng, by="operation")  # may come after the end of what was left
    runs.finish("killed")
