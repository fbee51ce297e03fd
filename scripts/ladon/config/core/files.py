"""A config file's text, or an error of one line that says why there is none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ladon.config.core.nodes import LocatedError, SourceLocation, suggest
from ladon.errors import ConfigError

# the largest shipped file has 15 KB; a device or a wrong file would fill the memory
MAX_BYTES = 16 << 20
_SHOWN = 200


def shown(path: str | Path) -> str:
    """Return a path as it can stand in one line of a message."""
    text = str(path)
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN // 2]}…{text[-_SHOWN // 4 :]}"


@contextmanager
def reachable(
    path: str | Path, mark: SourceLocation | None = None, key: str = ""
) -> Iterator[None]:
    """Within it, what the system says against a path becomes an error.

    A path may be too long, hold a NUL character, lead through a folder without permission or links
    that form a circle, or name the home of nobody.

    Args:
        path: the path, for the error.
        mark: where it is written, None if it came from the command line.
        key: the key it is written under.

    Raises:
        ConfigError: naming both.
    """
    try:
        yield
    except (OSError, ValueError, RuntimeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
        name = f"{key} {shown(path)}" if key else shown(path)
        raise LocatedError(mark, f"{name}: cannot be read: {reason}".replace("\n", " ")) from exc


def read_text(path: Path) -> str:
    """Return the text of a config file.

    Raises:
        ConfigError: it is missing, no file, too large, or not UTF-8; the message names it.
    """
    with reachable(path):
        if path.is_dir():
            raise ConfigError(f"{shown(path)} is a folder, not a config file")
        if not path.exists():
            raise ConfigError(f"config file not found: {shown(path)}{near(path)}")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{shown(path)}: larger than {MAX_BYTES >> 20} MiB: no config file")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        text = f"not UTF-8 text (byte {exc.start}): save it as UTF-8"
        raise ConfigError(f"{shown(path)}: {text}") from exc


def near(path: Path) -> str:
    """Return '; did you mean "X"?' for the file or folder beside it with the nearest name."""
    try:
        siblings: Iterable[Path] = list(path.parent.iterdir()) if path.parent.is_dir() else ()
    except OSError:  # a folder that may not be listed has no hint to give
        return ""
    return suggest(shown(path.name), (sibling.name for sibling in siblings))
