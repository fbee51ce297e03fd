"""Two processes of one distributed run, as a launcher would start them."""

from __future__ import annotations

import os
import socket
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tiny import ROOT
from warm import start

WORKER = ROOT / "tests" / "distributed_worker.py"


def two_processes(
    command: Sequence, codes: Sequence[int] = (0, 0), seconds: float = 240
) -> list[str]:
    """Runs a script with its arguments as ranks 0 and 1; they must end in time with these codes.

    Returns:
        What each of them said.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, str(rank)) for rank in range(2)]
        started = [
            start(
                command,
                out=file,
                env=os.environ | place | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            )
            for rank, file in enumerate(files)
        ]
        end = time.monotonic() + seconds
        try:
            for process in started:
                process.join(max(1, end - time.monotonic()))
        finally:
            for process in started:
                if process.exitcode is None:
                    process.kill()
                process.join()
        outputs = [file.read_text(encoding="utf-8") for file in files]
    assert [process.exitcode for process in started] == list(codes), "\n".join(outputs)
    return outputs
