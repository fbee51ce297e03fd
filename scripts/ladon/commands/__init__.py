"""The commands: `ladon NAME …` where the package is installed, `python scripts/NAME.py …` in a
checkout. A further command is a module with `main(argv)` here, a line below, and a script.

Nothing heavy is imported before it is known which command it is.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import NoReturn

from ladon import __version__, cli
from ladon.launch import PACKAGE
from ladon.process import run_script
from ladon.tasks import TASKS

COMMANDS = {
    **{task.name: f"train and test models: {task.title.lower()}" for task in TASKS.values()},
    "sweep": "run a task for several β, or all of a family, here or on a cluster",
    "predict": "show what a model finds in pictures, through their payloads",
    "profile": "parameters, multiply-adds, bytes and time of a model's parts",
    "measure_split": "compare ways of sharing the work with a server, over several links",
    "watch": "how runs go that are going on elsewhere, in the terminal",
    "report": "tables and plots of finished runs, beside the published results too",
    "verify": "repeat the final test of finished runs, and compare",
    "validate": "check config files without running them",
    "checkpoint": "look into a checkpoint, or write it anew in the current format",
    "serve": "answer payloads over HTTP",
    "export": "write a model's device half for where there is no PyTorch",
    "demo": "train and test everything on a small data set (in a checkout)",
    "demo_split": "split the demo's models between a device and a server (in a checkout)",
    "frontier": "train one model for every rate and separate ones (in a checkout)",
    "benchmark": "time everything beside the published way (in a checkout)",
    "gpu": "test and time everything on a CUDA GPU (in a checkout)",
    "draw_architecture": "draw the pictures of the architecture",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names; return the exit code.

    Args:
        argv: arguments; the process's own if None.
    """
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        print(overview())
        return 0
    if name == "--version":
        print(f"ladon {__version__}")
        return 0
    if name.replace("-", "_") in COMMANDS:  # `ladon measure-split`, too
        name = name.replace("-", "_")
    names_config = any(word.partition("=")[0] == "--config" for word in rest)
    if name in COMMANDS or names_config:  # its modules may register a task of this name
        return command(name)(rest)
    print(f"error: ladon has no command '{name}': `ladon` lists them", file=sys.stderr)
    return 2


def overview() -> str:
    """Return what `ladon` alone says: the commands, one a line."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "usage: ladon COMMAND …",
            f"\nMulti-task supervised compression for split computing, {__version__} in {PACKAGE}",
            "\ncommands (`ladon COMMAND --help` says more):",
            *lines,
            f"  {'--version':{width}}  the version alone",
        ]
    )


def command(name: str) -> Callable[[Sequence[str]], int]:
    """Return what runs a command, given its arguments.

    Args:
        name: key of `COMMANDS`, or a task of a user's own.
    """
    if name in COMMANDS and name not in TASKS:
        return importlib.import_module(f"ladon.commands.{name}").main
    return partial(cli.main, name)


def run() -> NoReturn:
    """Run the command `ladon` and end the process."""
    run_script(main)
