"""How this process was started, by a script of a checkout or by the command `ladon`, and what
follows: how its children are started, and how a person is told to start another command.

Imports nothing heavy.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parent
_SCRIPT = re.compile(r"python scripts/(\w+)\.py")


def by_ladon() -> bool:
    """Whether this process was started as `ladon …` or `python -m ladon …`."""
    start = Path(sys.argv[0])
    return start.stem == "ladon" or start.parts[-2:] == ("ladon", "__main__.py")


def in_words(text: str) -> str:
    """Return a text whose `python scripts/NAME.py` a person can start as this was started."""
    return _SCRIPT.sub(r"ladon \1", text) if by_ladon() else text


def make_parser(name: str, text: str, **settings: Any) -> argparse.ArgumentParser:
    """Return the parser of a command.

    Args:
        name: of the command.
        text: what `--help` says before the flags, as for the scripts.
        settings: further ones of the parser.
    """
    return argparse.ArgumentParser(
        prog=f"ladon {name}" if by_ladon() else None,  # a script's own name
        description=in_words(text),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        **settings,
    )


def child_command(name: str) -> list[str]:
    """Return the first words of the command line that starts a command in another process.

    That is the script where a checkout's script was started, so that it runs without being
    installed (a task of a user's own has none: there is one for all); the installed package
    otherwise.
    """
    script, for_all = PACKAGE.parent / f"{name}.py", PACKAGE.parent / "run.py"
    if for_all.is_file() and not by_ladon():
        own = [str(script)] if script.is_file() else [str(for_all), name]
        return [sys.executable, *own]
    # the command `ladon` doesn't look for modules in the working directory, `python -m` does
    safe = ["-P"] if Path(sys.argv[0]).stem == "ladon" else []
    return [sys.executable, *safe, "-m", "ladon", name]


def own_command() -> list[str]:
    """Return this process's command line, without the folder of what was started."""
    return ["ladon" if by_ladon() else Path(sys.argv[0]).name, *sys.argv[1:]]


def checkout() -> Path | None:
    """Return the root of the checkout that this package is imported from, None if installed."""
    root = PACKAGE.resolve().parents[1]
    is_one = PACKAGE.parent.name == "scripts" and (root / "configs").is_dir()
    return root if is_one else None
