"""Generators of a run: whose device they are of, and what a resumed run makes of another's."""

from __future__ import annotations

import logging
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from ladon.engine.distributed import World
from ladon.engine.last_file import LastFile
from ladon.engine.randomness import global_states, restore_global_states, seed_everything
from ladon.engine.resume import Progress, Resumed, save_last
from ladon.models.checkpoint import load_safely

CPU, GPU = torch.device("cpu"), torch.device("cuda", 1)
CUDA_STATE = torch.zeros(16, dtype=torch.uint8)


@pytest.fixture
def cuda_calls(monkeypatch):
    """A host with two GPUs, whose generators record who asks for them."""
    calls = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)

    def get(device="cuda"):
        calls.append(("get", device))
        return CUDA_STATE

    monkeypatch.setattr(torch.cuda, "get_rng_state", get)
    monkeypatch.setattr(
        torch.cuda, "set_rng_state", lambda state, device="cuda": calls.append(("set", device))
    )
    return calls


def draws():
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_a_cpu_run_does_not_touch_the_gpus_of_its_host(cuda_calls):
    states = global_states(CPU)
    assert states["cuda"] is None
    restore_global_states(states | {"cuda": CUDA_STATE}, CPU)
    assert cuda_calls == []


def test_a_gpu_run_keeps_the_generator_of_its_own_device(cuda_calls):
    states = global_states(GPU)
    restore_global_states(states, GPU)
    assert cuda_calls == [("get", GPU), ("set", GPU)]


def test_restored_generators_draw_on():
    seed_everything(3)
    states = global_states(CPU)
    expected = draws()
    assert draws() != expected
    restore_global_states(states, CPU)
    assert draws() == expected


class Noise:
    """A generator of a device, which refuses a state of another size as torch's do."""

    def __init__(self, size):
        self.size, self.restored = size, 0

    def set_state(self, state):
        if state.numel() != self.size:
            raise RuntimeError("RNG state is wrong size")
        self.restored += 1


def resumed(device, noise_size):
    """What a run on a device left: all its generators have drawn."""
    seed_everything(5)
    cuda = CUDA_STATE if device == "cuda" else None
    states = {
        "global": global_states(CPU) | {"cuda": cuda},
        "noise": torch.zeros(noise_size, dtype=torch.uint8),
    }
    return states, draws()


@pytest.mark.parametrize("says", [True, False])
@pytest.mark.parametrize(
    ("before", "size", "now", "own_size"), [("cuda", 16, CPU, 5056), ("cpu", 5056, GPU, 16)]
)
def test_another_device_goes_on_with_fresh_generators(
    cuda_calls, caplog, says, before, size, now, own_size
):
    states, expected = resumed(before, size)
    noise = Noise(own_size)
    what = Resumed(Path(), Progress(), None, [states], before if says else None)
    with caplog.at_level(logging.WARNING):
        what.restore_generators(World(now), noise)
    assert len(caplog.messages) == 1
    assert f"resumed on {now.type} a run that was trained on {before}" in caplog.messages[0]
    assert noise.restored == 0
    assert cuda_calls == []
    assert draws() == expected, "the host's generators go on"


@pytest.mark.parametrize("says", [True, False])
@pytest.mark.parametrize(("device", "size"), [(CPU, 5056), (GPU, 16)])
def test_the_same_device_goes_on_exactly(cuda_calls, caplog, says, device, size):
    states, expected = resumed(device.type, size)
    noise = Noise(size)
    what = Resumed(Path(), Progress(), None, [states], device.type if says else None)
    what.restore_generators(World(device), noise)
    assert caplog.messages == []
    assert noise.restored == 1
    assert cuda_calls == ([("set", GPU)] if device == GPU else [])
    assert draws() == expected


def test_a_real_noise_generator_refuses_the_other_devices_state():
    """Why it is left alone; and the size by which an old file is judged."""
    own = torch.Generator()
    assert own.get_state().numel() == 5056
    with pytest.raises(RuntimeError, match="size"):
        own.set_state(CUDA_STATE)


def test_last_says_on_which_device_it_was_written(tmp_path):
    path = tmp_path / "last.pt"
    save_last(LastFile(path), torch.nn.Linear(1, 1), None, Progress(), World(CPU), None)
    content = load_safely(path)
    assert content["device"] == "cpu"
    assert content["generators"][0]["global"]["cuda"] is None


def test_optimizer_states_go_to_the_parameters_device():
    state = {"state": {0: {"momentum_buffer": torch.ones(2)}}}
    parameter = torch.nn.Parameter(torch.empty(2, device="meta"))
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    optimizer.load_state_dict(optimizer.state_dict() | state)
    assert optimizer.state[parameter]["momentum_buffer"].device.type == "meta"
