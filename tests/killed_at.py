"""Runs a script that is killed, as by SIGKILL, at its Nth operation on files of a folder.

python tests/killed_at.py N FOLDER COUNT SCRIPT FLAGS: N 0 for never; without a kill the number of
operations is written to COUNT
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
from pathlib import Path
from typing import Any

# what Python tells of before it is done; os.replace is a rename
EVENTS = {"open", "os.rename", "os.link", "os.remove", "os.mkdir", "os.truncate"}


def main(at: int, folder: str, count: str) -> None:
    """Count from here on; the script is what is left of the arguments."""
    own, seen = os.getpid(), [0]

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event not in EVENTS or os.getpid() != own:  # not in a loader's worker
            return
        if not str(args[0]).startswith(folder):
            return
        seen[0] += 1
        if seen[0] == at:
            os.kill(own, signal.SIGKILL)

    sys.addaudithook(hook)
    sys.argv = sys.argv[4:]
    sys.path.insert(0, str(Path(sys.argv[0]).resolve().parent))
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    finally:
        total, at = seen[0], 0
        Path(count).write_text(str(total))


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:4])
