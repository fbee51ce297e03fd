"""The processes of one distributed run, as a launcher would start them."""

from __future__ import annotations

import os
import socket
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tiny import ROOT
from warm import start

WORKER = ROOT / "tests" / "distributed_worker.py"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def torchrun_place(rank: int, size: int, port: int) -> dict[str, str]:
    """What torchrun sets for a process."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_PORT": port}
    return {"MASTER_ADDR": "127.0.0.1"} | {name: str(value) for name, value in numbers.items()}


def several_processes(
    command: Sequence,
    codes: Sequence[int | None] = (0, 0),
    seconds: float = 240,
    *,
    env: Mapping[str, str] | None = None,
    place=torchrun_place,
) -> list[str]:
    """Runs a script with its arguments as ranks 0, 1, …; they must end in time with these codes.

    Args:
        command: the script and its arguments.
        codes: an exit code for each process; None for one that is stopped when the others end.
        seconds: for all of them together.
        env: further variables.
        place: gives those of a rank, of the number of processes and of a free port.

    Returns:
        What each of them said.
    """
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, str(rank)) for rank in range(len(codes))]
        started = [
            start(
                command,
                out=file,
                env=os.environ | dict(env or {}) | place(rank, len(codes), port),
            )
            for rank, file in enumerate(files)
        ]
        end = time.monotonic() + seconds
        try:
            for process, code in zip(started, codes, strict=True):
                if code is not None:
                    process.join(max(1, end - time.monotonic()))
        finally:
            ended = [process.exitcode for process in started]
            for process in started:
                if process.exitcode is None:
                    process.kill()
                process.join()
        outputs = [file.read_text(encoding="utf-8") for file in files]
    assert ended == list(codes), "\n".join(outputs)
    return outputs
