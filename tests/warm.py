"""Python programs in processes that have imported the libraries already.

A process of its own imports torch, torchvision, CompressAI and sc2bench for 6 seconds of a core
before it does anything. These are forked from one that has done so (the standard library's fork
server), and are otherwise like any other: own environment, folder, output, signals, exit code. What
a test says about starting up itself needs a process that really starts (`subprocess`).
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest import mock

HERE = Path(__file__).parent
_CONTEXT = multiprocessing.get_context("forkserver")


def start(
    command: Sequence[Any],
    *,
    out: str | os.PathLike,
    err: str | os.PathLike | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike | None = None,
) -> BaseProcess:
    """Start a script with its arguments.

    Args:
        command: the script's file and its arguments.
        out: the file that its output goes to.
        err: that of its errors; None: the same.
        env: its environment; None: this process's.
        cwd: its folder; None: this process's.
    """
    _start_server()
    words = tuple(map(str, command))
    files = (os.fspath(out), os.fspath(out if err is None else err))
    place = (dict(os.environ if env is None else env), os.fspath(cwd or os.getcwd()))
    process = _CONTEXT.Process(target=_become, args=(words, files, *place), daemon=False)
    process.start()
    return process


def run(
    command: Sequence[Any],
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike | None = None,
    seconds: float = 240,
) -> subprocess.CompletedProcess:
    """Run a script to its end, as `subprocess.run` does.

    Raises:
        TimeoutError: it did not end in time; it is killed then.
    """
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        process = start(command, out=out, err=err, env=env, cwd=cwd)
        process.join(seconds)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise TimeoutError(f"{command[0]} has not ended in {seconds} s\n{err.read_text()}")
        said = (path.read_text(encoding="utf-8") for path in (out, err))
        return subprocess.CompletedProcess(list(command), process.exitcode, *said)


def _start_server() -> None:
    """Start the process that the others are forked from, with this project in its path."""
    path = os.pathsep.join([str(HERE), str(HERE.parent / "scripts")])
    with mock.patch.dict(os.environ, {"PYTHONPATH": path, "PYTHONIOENCODING": "utf-8"}):
        _CONTEXT.set_forkserver_preload(["warm_imports"])
        forkserver.ensure_running()


def _become(words: tuple[str, ...], files: tuple[str, str], env: dict[str, str], cwd: str) -> None:
    """Do, in the forked process, what a fresh one would do with the command."""
    for number, file in enumerate(files, start=1):
        opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    # the fork server's children would start their own, a loader's workers, by it as well
    multiprocessing.set_start_method(None, force=True)
    sys.argv = list(words)
    paths = [path for path in env.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:0] = [str(Path(words[0]).resolve().parent), *paths]
    runpy.run_path(words[0], run_name="__main__")
