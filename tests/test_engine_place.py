"""A process's place by its launcher's variables, without any launcher."""

from __future__ import annotations

import pytest
import torch.distributed as dist

from ladon.engine import distributed
from ladon.engine.distributed import join_world
from ladon.engine.place import Place, first_host, launched_rank, read_place
from ladon.errors import UsageError

_PREFIXES = ("SLURM_", "MASTER_", "RANK", "WORLD_SIZE", "LOCAL_RANK")
TASK = {"SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NTASKS": "4"}
JOB = {"SLURM_JOB_NODELIST": "gpu[03-05,9]", "SLURM_JOB_ID": "41000", "SLURM_STEP_ID": "2"}


@pytest.fixture
def launched(monkeypatch):
    """Set a launcher's variables, and nothing else of its kind."""
    import os

    def put(values):
        for name in [name for name in os.environ if name.startswith(_PREFIXES)]:
            monkeypatch.delenv(name)
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return put


@pytest.mark.parametrize(
    ("values", "world_size", "place"),
    [
        ({}, None, Place()),
        # torchrun, whoever started it, and whatever --world_size says
        (
            {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", **TASK},
            2,
            Place(5, 8, 1),
        ),
        # srun: all of its tasks, as published with --world_size or without
        (TASK | JOB, None, Place(3, 4, 1, "SLURM_LOCALID", ("gpu03", 13002))),
        (TASK | JOB, 4, Place(3, 4, 1, "SLURM_LOCALID", ("gpu03", 13002))),
        (
            {"SLURM_PROCID": "0", "SLURM_LOCALID": "0"} | JOB,
            2,
            Place(0, 2, 0, "SLURM_LOCALID", ("gpu03", 13002)),
        ),
        (
            {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS": "9"},
            None,
            Place(0, 2, 0, "SLURM_LOCALID"),
        ),
        # runs of their own: asked for, or the batch script itself, which srun did not start
        (TASK | JOB, 1, Place()),
        (TASK | JOB | {"SLURM_PROCID": "0", "SLURM_STEP_ID": ""}, 1, Place()),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, None, Place()),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, None, Place()),
    ],
)
def test_a_place(launched, values, world_size, place):
    launched(values)
    assert read_place(world_size) == place
    assert launched_rank(world_size) == place.rank


@pytest.mark.parametrize(
    ("values", "address"),
    [
        ({"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "99"}, ("10.0.0.1", 99)),
        ({"MASTER_ADDR": "10.0.0.1"}, ("10.0.0.1", 13002)),
        ({"MASTER_PORT": "99"}, ("gpu03", 99)),
        # a step may have some of the job's nodes only: its first task is on its own first one
        ({"SLURM_STEP_NODELIST": "gpu04"}, ("gpu04", 13002)),
        ({"SLURM_LAUNCH_NODE_IPADDR": "10.0.0.7"}, ("gpu03", 13002)),
        ({"SLURM_LAUNCH_NODE_IPADDR": "10.0.0.7", "SLURM_JOB_NODELIST": ""}, ("10.0.0.7", 13002)),
        ({"SLURM_JOB_NODELIST": ""}, None),
    ],
)
def test_where_tasks_meet(launched, values, address):
    launched(TASK | JOB | values)
    assert read_place().address == address


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("login1", "login1"),
        ("gpu[03-05,9],login1", "gpu03"),
        ("gpu[7,9-12]", "gpu7"),
        ("a-1,b[2-3]", "a-1"),
        ("rack[1-2]node[08-09].site", "rack1node08.site"),
        ("", ""),
    ],
)
def test_the_first_of_slurms_hosts(nodes, host):
    assert first_host(nodes) == host


@pytest.mark.parametrize(
    ("values", "world_size", "message"),
    [
        (TASK, 2, r"--world_size 2: srun started 4 tasks \(SLURM_NTASKS\)"),
        (TASK | {"SLURM_NTASKS": "x"}, None, "SLURM_NTASKS=x: must be a number"),
        (TASK | {"SLURM_PROCID": "4"}, None, "rank 4 of only 4: .* --world_size"),
        (TASK | {"SLURM_LOCALID": "a"}, None, "SLURM_LOCALID=a: must be a number"),
        ({}, 2, "--world_size 2: start the processes with `torchrun"),
    ],
)
def test_what_makes_no_sense_is_wrong_usage(launched, values, world_size, message):
    launched(values)
    with pytest.raises(UsageError, match=message):
        read_place(world_size)
    assert launched_rank(world_size) == 0


@pytest.mark.parametrize(
    ("given", "used"),
    [("env://", "tcp://gpu03:13002"), ("tcp://10.0.0.1:7", "tcp://10.0.0.1:7")],
)
def test_tasks_of_srun_meet_there_unless_they_are_told_where(launched, monkeypatch, given, used):
    launched(TASK | JOB)
    asked = []

    def rendezvous(url, rank, size, **_):
        asked.append((url, rank, size))
        raise RuntimeError("/gloo/ nobody there")

    monkeypatch.setattr(dist, "rendezvous", rendezvous)
    with pytest.raises(distributed.LadonError, match=f"rank 3 cannot meet .* reach {used}"):
        join_world("cpu", None, given)
    assert asked == [(used, 3, 4)]


@pytest.mark.parametrize("text", ["soon", "-1", "inf", "nan"])
def test_a_time_to_wait_is_a_number_of_seconds(launched, monkeypatch, text):
    launched(TASK | JOB)
    monkeypatch.setenv("LADON_RANK_TIMEOUT", text)
    with pytest.raises(UsageError, match=f"LADON_RANK_TIMEOUT={text}: must be a number of seconds"):
        join_world("cpu", None, "env://")
