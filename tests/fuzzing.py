"""Fuzzing of what reads files: hypothesis in a child process with bounds on memory and time.

A module `test_fuzz_X.py` decorates its properties with `fuzz` and runs them by `in_child`: one
child for a module, so that the libraries are imported once. The child may take `ROOM` of address
space (RLIMIT_AS) beyond what it has after its imports, and `SECONDS` for an example. Whatever ends
it, a segmentation fault included, the parent shows the example that it was at.

What is drawn is the same at every run. `LADON_FUZZ=20 pytest tests/test_fuzz_coco.py` draws 20
times as many, to look for new faults.
"""

from __future__ import annotations

import faulthandler
import importlib
import os
import resource
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ladon.errors import UsageError

ROOM = 1 << 30
SECONDS = 30
TIMES = int(os.environ.get("LADON_FUZZ", "1"))
_FOLDER = "LADON_FUZZ_FOLDER"

DAMAGES = st.lists(
    st.tuples(
        st.sampled_from(["cut", "flip", "flip", "set", "insert", "drop"]),
        st.floats(0, 1) | st.integers(0, 120),  # a place in the file, or a byte of its header
        st.integers(0, 255),
    ),
    min_size=1,
    max_size=3,
)


def damaged(content: bytes, damages: list[tuple[str, float, int]]) -> bytes:
    """A file's bytes after what `DAMAGES` drew."""
    for what, where, value in damages:
        at = min(len(content), int(where * len(content)) if isinstance(where, float) else where)
        before, after = content[:at], content[at:]
        if what == "cut":
            content = before
        elif what == "flip":
            content = before + bytes(byte ^ 1 << value % 8 for byte in after[:1]) + after[1:]
        elif what == "set":
            length = 1 + value % 4
            content = before + (b"\xff", b"\0", b"\x7f")[value % 3] * length + after[length:]
        elif what == "insert":
            content = before + bytes([value]) * (1 + value % 5) + after
        else:
            content = before + after[1 + value % 8 :]
    return content


def fuzz(drawn: st.SearchStrategy, count: int, *known: Any) -> Callable[[Callable], Callable]:
    """Make a property of one case run on those `known` to be hard, then on `count` drawn ones."""

    def decorate(check: Callable[[Any], None]) -> Callable[[], None]:
        def watched(case: Any) -> None:
            (folder() / "case").write_text(f"{check.__name__}: {case!r}", errors="backslashreplace")
            faulthandler.dump_traceback_later(SECONDS, exit=True)
            check(case)

        watched.__name__ = watched.__qualname__ = check.__name__
        made = given(drawn)(watched)
        for case in known:
            made = example(case)(made)
        return settings(
            max_examples=count * TIMES,
            derandomize=True,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )(made)

    return decorate


def folder() -> Path:
    """The folder of this child, in which its properties write their files."""
    return Path(os.environ[_FOLDER])


@contextmanager
def refusals() -> Iterator[list[str]]:
    """Let the right kind of error pass: one line, exit code 2; its text goes to the list.

    A refusal because memory ran out is none: the file's claims were not looked at before.
    """
    said: list[str] = []
    try:
        yield said
    except UsageError as error:
        said += str(error).splitlines() or [""]
        if len(said) != 1 or error.exit_code != 2 or "memory" in said[0].lower():
            raise AssertionError(f"no right refusal: {said}") from error


def in_child(module: str, where: Path) -> None:
    """Runs all properties of a module in a child process; they must hold within the bounds."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "OMP_NUM_THREADS": "1",
        _FOLDER: str(where),
    }
    command = [sys.executable, "-c", f"import fuzzing; fuzzing.work({module!r})"]
    output = where / "output"
    with output.open("wb") as file:
        try:
            code: Any = subprocess.run(
                command, env=environment, stdout=file, stderr=file, timeout=300 * TIMES
            ).returncode
        except subprocess.TimeoutExpired:
            code = "none: it ran out of time"
    if code != 0:
        case = where / "case"
        at = case.read_text() if case.exists() else "no case"
        shown = output.read_text(errors="backslashreplace")
        raise AssertionError(f"exit code {code} at {at[:3000]}\n{shown[-6000:]}")


def work(module: str) -> None:
    """What the child does."""
    found = vars(importlib.import_module(module))
    properties = [value for value in found.values() if hasattr(value, "hypothesis")]
    assert properties
    faulthandler.enable()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM,) * 2)
    failed = 0
    for check in properties:
        try:
            check()
        except BaseException:
            traceback.print_exc()
            failed = 1
        faulthandler.cancel_dump_traceback_later()
    sys.stdout.flush()
    os._exit(failed)
