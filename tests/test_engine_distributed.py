"""The processes of a distributed run: what they ask each other, and what becomes of failures."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from processes import WORKER, several_processes
from tiny import ROOT

from ladon.data.loaders import EpochBatchSampler, SeededDataset
from ladon.engine import (
    distributed,
    failures,
    joining,
    noticeboard,
    student_trainer,
    train,
)
from ladon.engine.distributed import Vote, World, choose_device, join_world
from ladon.engine.joining import joined_world
from ladon.errors import LadonError, UsageError
from ladon.models.checkpoint import load_safely

PLACE = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "SLURM_PROCID")
ARGS = SimpleNamespace(device="cpu", world_size=1, dist_url="env://")


@pytest.fixture
def place(monkeypatch):
    """Set the environment that a launcher would set, and nothing else of it."""

    def put(**values):
        for name in (*PLACE, "SLURM_LOCALID"):
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, str(value))

    put()
    return put


@pytest.fixture
def two_gpus(monkeypatch, place):
    """A machine with two GPUs, as far as joining a run shows; records what it is told."""
    calls = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda d: calls.append(("set_device", d)))
    monkeypatch.setattr(dist, "rendezvous", lambda *_, **__: iter([("store", 0, 2)]))
    monkeypatch.setattr(dist, "init_process_group", lambda *a, **k: calls.append((*a, k)))
    monkeypatch.setattr(dist, "new_group", lambda **k: calls.append(("group", k)) or "side")
    monkeypatch.setattr(distributed, "Noticeboard", lambda *a: a)
    return calls


def test_small_messages_need_no_device_and_votes_are_told_a_step_late(tmp_path):
    several_processes([WORKER, "messages", tmp_path / "out"])
    first, second = (json.loads((tmp_path / f"out.{rank}").read_text()) for rank in range(2))
    assert first == second
    assert first["gather"] == [{"rank": 0}, {"rank": 1}]
    assert first["broadcast"] == ["from", 0]
    assert first["maximum"] == 4
    assert first["votes"] == [0, 0, 15]
    assert first["settled"] == 0, "no vote is under way after an answer"
    assert first["late"] == [0, 15, 0], "a stop in the last step is not lost"


def test_a_process_on_its_own_is_answered_at_once():
    vote = Vote(World(torch.device("meta")))
    assert [vote.ask(0), vote.ask(15)] == [0, 15]


def test_gpu_processes_talk_over_a_side_group(two_gpus, place):
    place(RANK=1, WORLD_SIZE=2, LOCAL_RANK=1)
    world = join_world("cuda", 1, "env://")
    device = torch.device("cuda", 1)
    assert (world.device, world.group) == (device, "side")
    assert two_gpus[0] == ("set_device", device)
    backend, options = two_gpus[1]
    assert (backend, options["device_id"]) == ("nccl", device)
    assert two_gpus[2] == ("group", {"backend": "gloo", "timeout": distributed.TIMEOUT})


@pytest.mark.parametrize(("name", "index"), [("cuda", 0), ("cuda:1", 1), ("auto", 0)])
def test_a_single_process_makes_its_gpu_the_current_one(two_gpus, name, index):
    world = join_world(name, 1, "env://")
    assert world.device == torch.device("cuda", index)
    assert two_gpus == [("set_device", torch.device("cuda", index))]


def test_a_cpu_run_leaves_gpus_alone(two_gpus):
    assert join_world("cpu", 1, "env://").device == torch.device("cpu")
    assert two_gpus == []
    assert choose_device("cpu").index is None


def test_each_process_needs_a_gpu_of_its_own(two_gpus, place):
    place(RANK=2, WORLD_SIZE=3, LOCAL_RANK=2)
    with pytest.raises(UsageError, match="LOCAL_RANK=2: this machine has 2 CUDA devices"):
        join_world("cuda", 1, "env://")
    with pytest.raises(UsageError, match=r"--device cuda:1: 3 processes .* use --device cuda "):
        join_world("cuda:1", 1, "env://")


def test_srun_may_show_each_process_its_own_gpu_alone(two_gpus, place, monkeypatch):
    place(SLURM_PROCID=1, SLURM_LOCALID=1)
    assert join_world("cuda", 2, "env://").device == torch.device("cuda", 1)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert join_world("cuda", 2, "env://").device == torch.device("cuda", 0)
    place(SLURM_PROCID=2, SLURM_LOCALID=2)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UsageError, match="SLURM_LOCALID=2: this machine has 2 CUDA devices"):
        join_world("cuda", 3, "env://")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"RANK": "x", "WORLD_SIZE": "2"}, "RANK=x: must be a number"),
        ({"RANK": "0", "WORLD_SIZE": ""}, "WORLD_SIZE=: must be a number"),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "-1"}, "LOCAL_RANK=-1: must be a number"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "rank 2 of only 2"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "MASTER_ADDR expected.* torchrun"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}, "MASTER_PORT expected"),
        (
            {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "x"},
            "MASTER_PORT=x: must be a number",
        ),
        ({"RANK": "0", "WORLD_SIZE": "0"}, "rank 0 of only 0"),
        ({"RANK": "1"}, "RANK=1 is set and WORLD_SIZE is not: .* torchrun"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2 is set and RANK is not: .* torchrun"),
    ],
)
def test_an_environment_that_makes_no_sense_is_wrong_usage(place, values, message):
    place(**values)
    with pytest.raises(UsageError, match=message):
        join_world("cpu", 1, "env://")


def test_an_unknown_address_is_wrong_usage(place):
    place(RANK=0, WORLD_SIZE=2)
    with pytest.raises(UsageError, match="--dist_url foo://bar"):
        join_world("cpu", 1, "foo://bar")


ASSERT = (
    "CUDA error: device-side assert triggered\nCUDA kernel errors might be asynchronously "
    "reported at some other API call\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1"
)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (ASSERT, ["cpu failed", "label outside", "num_classes", "CUDA_LAUNCH_BLOCKING=1"]),
        ("CUDA error: an illegal memory access\nmore", ["cpu failed: CUDA error: an illegal"]),
    ],
)
def test_what_a_device_reports_is_one_line(place, text, parts):
    with pytest.raises(LadonError) as caught, joined_world(ARGS):
        raise torch.AcceleratorError(text)
    assert caught.value.exit_code == 1
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def test_other_runtime_errors_stay_what_they_are(place):
    with pytest.raises(RuntimeError, match=r"^of a library$") as caught, joined_world(ARGS):
        raise RuntimeError("of a library")
    assert not isinstance(caught.value, LadonError)
    assert not failures.is_connection_error(caught.value)


def test_a_device_failure_in_training_names_stage_and_dataset(own_lab, monkeypatch):
    from ladon.engine.stage import Stage

    def step(*_):
        raise torch.AcceleratorError(ASSERT)

    monkeypatch.setattr(Stage, "step", step)
    assert own_lab.run("small", config=own_config(own_lab, "assert")) == 1
    last = own_lab.log("assert").splitlines()[-1]
    assert "on digit_scenes/train: CUDA error: device-side assert" in last


def own_config(lab, name, **values):
    """A classifier that is trained for an epoch: ten steps, or five in each of two processes."""
    return lab.config(
        "small",
        name,
        models__model__dst_ckpt=str(lab.folder / f"{name}.pt"),
        train__num_epochs=1,
        train__train_data_loader__kwargs={"batch_size": 4, "num_workers": 0},
        **values,
    )


def run_all(lab, name, deed, step, codes, *flags, env=None):
    log = lab.folder / "logs" / f"{name}.txt"
    command = [WORKER, "run", deed, step, "small", "--config", own_config(lab, name)]
    command += ["--run_log", log, "--device", "cpu", *flags]
    return several_processes(command, codes, env=env)


# in the middle of an epoch, in its last step (4 images, 2 processes, 40 images: 5 steps)
@pytest.mark.parametrize("step", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_a_signal_to_one_process_stops_both_at_the_same_step(own_lab, step):
    outputs = run_all(own_lab, "stopped", "term", step, (143, 143))
    assert "SIGTERM" not in outputs[1], "only the first process speaks, unless it is an error"
    last = load_safely(own_lab.folder / "logs" / "stopped" / "last.pt")
    at = last["progress"]["epoch"], last["progress"]["step"]
    assert at == (0, min(step + 1, 5)), "told a step late, and not lost at the end of an epoch"
    said = [line for text in outputs for line in text.splitlines() if "interrupted in" in line]
    assert len(said) == 1, "the first process says it"
    assert f"after step {at[1]}" in said[0]
    assert "add --resume" in own_lab.log("stopped")
    run_all(own_lab, "stopped", "none", 1, (0, 0), "--resume")
    assert f"epoch 0, step {at[1]}" in own_lab.log("stopped")
    assert "Results:" in own_lab.log("stopped")


def test_one_process_goes_on_with_what_two_have_left(own_lab, monkeypatch):
    """Ten batches of four images: two processes have done so many rounds of two."""
    run_all(own_lab, "fewer", "term", 1, (143, 143))
    last = load_safely(own_lab.folder / "logs" / "fewer" / "last.pt")
    assert (last["progress"]["step"], last["progress"]["batches"]) == (2, 4)
    original, loaded = SeededDataset.__getitem__, []

    def load(self, pair):
        loaded.append(pair[1])
        return original(self, pair)

    monkeypatch.setattr(SeededDataset, "__getitem__", load)
    config = own_config(own_lab, "fewer")
    assert own_lab.run("small", "--resume", config=config, log="fewer") == 0
    order = EpochBatchSampler(range(40), None, None, {"batch_size": 4}, seed=0)
    assert loaded == [index for batch in list(order)[4:] for _, index in batch]
    said = [line for line in own_lab.log("fewer").splitlines() if "Resumed with" in line]
    assert [line.split("Resumed with ")[1] for line in said] == [
        "1 processes instead of 2: a step takes 1 batches instead of 2, and an epoch 10 steps "
        "instead of 5; the batches that are left stay the same, and the schedule goes on from the "
        "same part of the epochs; random draws will differ"
    ]


@pytest.mark.parametrize("rank", [0, 1])
def test_processes_of_different_runs_are_told_apart(monkeypatch, capsys, rank):
    """As the tasks of a job may be that were meant to be runs of their own."""
    commands = [{"config": "a.yaml", "seed": seed} for seed in (0, 1)]
    monkeypatch.setattr(World, "gather", lambda self, own: commands)
    monkeypatch.setattr(joining, "join_world", lambda *_: World(torch.device("cpu"), rank, 2))
    said = "rank 1 was started with another command than rank 0 (seed 1 instead of 0): start all"
    with pytest.raises(UsageError, match="with --world_size 1 each") as caught, joined_world(ARGS):
        pytest.fail("the run began")
    assert str(caught.value).startswith(said)
    assert capsys.readouterr().err.count(said) == 1 - rank, "the first says it for all"


def test_tasks_of_srun_are_one_run(own_lab):
    """Without torchrun's variables and flags; a test, so that it is short."""
    log = own_lab.folder / "logs" / "srun.txt"
    script = ROOT / "scripts" / "image_classification.py"
    flags = ["--config", own_lab.config("teacher"), "--run_log", log, "--device", "cpu"]

    def place(rank, size, port):
        numbers = {"PROCID": rank, "LOCALID": rank, "NTASKS": size, "STEP_NUM_TASKS": size}
        nodes = {"SLURM_JOB_NODELIST": "localhost", "MASTER_PORT": str(port)}
        return nodes | {f"SLURM_{name}": str(value) for name, value in numbers.items()}

    outputs = several_processes([script, *flags, "-test_only"], place=place)
    assert "Results:" in outputs[0]
    assert "Results:" not in outputs[1]
    assert own_lab.metrics("srun")["num_images"] == 12
    assert json.loads((log.with_suffix("") / "run.json").read_text())["processes"] == 2


def test_an_error_of_one_process_is_said_by_the_other(own_lab):
    outputs = run_all(own_lab, "failed", "fail", 2, (1, 2))
    assert "rank 1: image 7.png: cannot be read" in outputs[1]
    assert "rank 1 failed: image 7.png: cannot be read" in outputs[0]
    for text in outputs:
        assert text.count("image 7.png") == 1
        assert "Traceback" not in text
    assert "rank 1 failed: image 7.png" in own_lab.log("failed").splitlines()[-1]


@pytest.mark.slow
def test_under_torchrun_the_log_says_why(own_lab):
    """torchrun ends the others as soon as one has left: the log must have it by then."""
    config, log = own_config(own_lab, "torchrun"), own_lab.folder / "logs" / "torchrun.txt"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    flags = ["--config", config, "--run_log", log, "--device", "cpu"]
    command = [sys.executable, *launcher, WORKER, "run", "fail", "2", "small", *flags]
    assert subprocess.run(list(map(str, command)), timeout=240, check=False).returncode == 1
    assert "ERROR\tladon.cli\trank 1 failed: image 7.png: cannot be read" in log.read_text()


def test_a_bug_in_one_process_ends_the_other(own_lab):
    outputs = run_all(own_lab, "bug", "bug", 2, (1, 1))
    assert "rank 1: ValueError: of a library" in outputs[1]
    assert "Traceback" in outputs[1]
    assert "rank 1 failed: ValueError: of a library" in outputs[0]


def test_a_process_that_was_killed_is_named(own_lab):
    outputs = run_all(own_lab, "killed", "kill", 2, (1, -9))
    assert "rank 1 did not answer (Connection" in outputs[0] or "Read error" in outputs[0]
    assert "it hangs or was killed" in own_lab.log("killed").splitlines()[-1]


def test_the_first_process_is_named_too_when_it_takes_the_store_along(own_lab):
    outputs = run_all(own_lab, "first", "kill@0", 2, (-9, 1))
    assert "rank 1: rank 0, where the processes met, is gone" in outputs[1]
    assert "Traceback" not in outputs[1]


@pytest.mark.slow
def test_a_process_that_does_not_answer_is_named(own_lab):
    outputs = run_all(own_lab, "hung", "hang", 2, (1, 1))
    assert "rank 1 did not answer (Timed out waiting 3000ms" in outputs[0]
    assert "rank 1: rank 1 did not answer" in outputs[1], "it is ended, too"


SOON = {"LADON_RANK_TIMEOUT": "8"}


def test_a_process_that_is_stopped_costs_less_than_a_minute():
    """Two looks at the store are between what happens and what is seen."""
    waits = (noticeboard.SILENCE_SECONDS, noticeboard.GRACE_SECONDS, 2 * noticeboard._POLL_SECONDS)
    assert sum(waits) < 60


@pytest.mark.slow
def test_a_process_that_is_stopped_ends_the_others(own_lab):
    outputs = run_all(own_lab, "stopped", "stop", 2, (1, None), env=SOON)
    assert outputs[0].count("rank 1 has not answered for 8 s: it was stopped or killed") == 1
    assert "rank 1 has not answered" in own_lab.log("stopped").splitlines()[-1]


@pytest.mark.slow
def test_a_stopped_first_process_takes_the_store_along(own_lab):
    outputs = run_all(own_lab, "stopped", "stop@0", 2, (None, 1, 1), env=SOON)
    for rank in (1, 2):
        said = f"rank {rank}: rank 0, where the processes met, has not answered for 8 s"
        assert outputs[rank].count(said) == 1
    assert "rank 0, where the processes met, has" in own_lab.log("stopped").splitlines()[-1]


def test_the_first_process_writes_and_decides_for_all(own_lab, monkeypatch):
    """Machines may compute scores that differ in their last bit: what is best must not."""
    monkeypatch.chdir(own_lab.folder)
    log = own_lab.folder / "logs" / "apart.txt"
    flags = ["--config", own_config(own_lab, "apart"), "--run_log", log, "--device", "cpu"]
    first, second = several_processes([WORKER, "apart", "small", *flags])
    judged = [[x for x in said.splitlines() if x.startswith("judged")] for said in (first, second)]
    assert judged[0] == judged[1]
    assert len(judged[0]) == 1
    assert f"wrote {log}" in first
    assert "wrote" not in second


def test_buffers_are_shared_before_what_is_validated_and_what_is_saved(own_lab, monkeypatch):
    """Stage 1 is not validated, stage 2 is."""
    done = []
    for owner, name in (
        (World, "share_buffers"),
        (train, "evaluate_all"),
        (student_trainer, "save_last"),
    ):
        original = getattr(owner, name)

        def recorded(*args, name=name, original=original, **kwargs):
            done.append(name)
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, recorded)
    config = own_lab.config(
        "classification",
        "shared",
        models__student_model__dst_ckpt=str(own_lab.folder / "shared.pt"),
    )
    assert own_lab.run("classification", "-student_only", config=config) == 0
    first = ["share_buffers", "save_last"]
    assert done == [*first, "share_buffers", "evaluate_all", "save_last", "save_last"]
