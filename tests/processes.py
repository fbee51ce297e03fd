"""Two processes of one distributed run, as a launcher would start them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

from tiny import ROOT

WORKER = ROOT / "tests" / "distributed_worker.py"


def two_processes(
    command: Sequence, codes: Sequence[int] = (0, 0), seconds: float = 240
) -> list[str]:
    """Runs a command as ranks 0 and 1; they must end in time with these codes.

    Returns:
        What each of them said.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = [
        subprocess.Popen(
            [sys.executable, *map(str, command)],
            env=os.environ
            | {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "OMP_NUM_THREADS": "1",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    end = time.monotonic() + seconds
    try:
        outputs = [p.communicate(timeout=max(1, end - time.monotonic()))[0] for p in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == list(codes), "\n".join(outputs)
    return outputs
