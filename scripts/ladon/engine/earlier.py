"""Traces of earlier runs: files that a new one must not lose, take for its own, or keep."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
from pathlib import Path

from ladon.errors import CheckpointError, LadonError, of_writing, why_not_written
from ladon.models.checkpoint import load_safely
from ladon.replacing import TEMPORARY, keep_as, replacing

logger = logging.getLogger(__name__)


def previous_of(path: Path) -> Path:
    """Where a file goes that a new run would write over: `best.pt` to `best.previous.pt`."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def backup_of(path: Path) -> Path:
    """Where a run keeps the one before: `last.pt` as it was is `last.backup.pt`."""
    return path.with_name(f"{path.stem}.backup{path.suffix}")


def put_last_away(last: Path, *, overwrite: bool) -> None:
    """Take an earlier run's `last.pt` away, so that no `--resume` takes it for this one's.

    Args:
        last: the file.
        overwrite: remove it; else it is renamed. Its backup goes in any case, and first: the new
            run must never fall back to it.
    """
    backup_of(last).unlink(missing_ok=True)
    if not last.exists() and not last.is_symlink():
        return
    if overwrite:
        last.unlink()
        return
    kept = previous_of(last)
    os.replace(last, kept)
    logger.warning("Starting anew: the earlier %s is now %s", last, kept.name)


def keep_best(best: Path, last: Path | None = None) -> None:
    """Keep an earlier run's best checkpoint under a second name before it is written over.

    Of a run that was not finished nothing is kept if that would cost a finished one's.

    Args:
        best: the checkpoint; it stays where it is until the new run writes its own.
        last: `last.pt` of the run that wrote it, where it may be.

    Raises:
        LadonError: if it cannot be kept.
    """
    if not best.is_file():
        return
    kept = previous_of(best)
    if kept.exists() and _is_unfinished(last):
        logger.warning(
            "Training over %s of a run that was not finished; %s stays as it is", best, kept.name
        )
        return
    try:
        keep_as(best, kept)
    except OSError as error:
        text = f"cannot keep {best} as {kept.name}: {why_not_written(error)}; move it away, or add "
        raise of_writing(f"{text}--overwrite to replace it", error) from error
    logger.warning("%s exists: it is kept as %s (--overwrite replaces it)", best, kept.name)


def bring_best(before: Path, now: Path) -> None:
    """Bring a resumed run's best checkpoint to where the config wants it now.

    What lies there is another run's, which must not be tested as this one's.

    Args:
        before: where the run wrote it before.
        now: where the run writes it now.

    Raises:
        LadonError: if it cannot be written.
    """
    if not before.is_file() or before.resolve() == now.resolve():
        return
    keep_best(now)
    try:
        with replacing(now) as temporary:
            shutil.copy2(before, temporary)
    except OSError as error:
        raise LadonError(f"cannot copy {before} to {now}: {why_not_written(error)}") from error
    logger.info("The best checkpoint so far, %s, is copied to %s", before, now)


def _is_unfinished(last: Path | None) -> bool:
    if last is None:
        return False
    if not last.is_file():
        return _began(last.parent)
    try:
        return not load_safely(last)["progress"]["finished"]
    except (CheckpointError, KeyError, TypeError):
        return False


def _began(folder: Path) -> bool:
    """Tell whether a training began in a folder and was killed before it first saved anything."""
    try:
        origin = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    has_result = (folder / "metrics.json").is_file()
    return isinstance(origin, dict) and "dst_ckpt" in origin and not has_result


def remove_orphans(folder: Path, name: str | None = None) -> None:
    """Remove the temporary files of runs that were killed while they wrote.

    Call it with the folder or file locked: a temporary file of this process's own number is then
    one of an earlier process that had the same number, as in containers.

    Args:
        folder: where they are.
        name: of the file that they were to become; None for any.
    """
    try:
        entries = list(folder.iterdir())
    except OSError:
        return
    for path in entries:
        match = TEMPORARY.fullmatch(path.name)
        if match is None or (name is not None and match["name"] != name):
            continue
        pid = int(match["pid"])
        if pid != os.getpid() and _is_alive(pid):
            continue
        with contextlib.suppress(OSError):
            path.unlink()
            logger.info("Removed %s, which a killed run had left", path)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # another user's
        return True
    return True
