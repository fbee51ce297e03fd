"""The end of a run's log: how far it is, and what it said last."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

_BYTES = 1 << 16  # of a log that are looked at
_LOGS = (".txt", ".log")
_STEP = re.compile(
    r"Epoch: \[(\d+)\]\t\[(\d+)/(\d+)\]\teta: (?:(\d+) days?, )?(\d+):(\d+):(\d+)\t"
    r"lr: (\S+)\timg/s: (\S+)\tloss: (\S+) \((\S+)\)"
)
_START, _TEST = "Config ", ("[Teacher: ", "[Student: ")


@dataclass(frozen=True)
class Step:
    """A step as it was logged.

    Attributes:
        epoch: counted over all stages.
        step: steps of it that are done.
        steps: of the epoch.
        seconds_left: of the epoch's steps.
        images_per_s: of this process.
        loss: mean over the epoch so far.
    """

    epoch: int
    step: int
    steps: int
    seconds_left: float
    images_per_s: float
    loss: float

    @property
    def epoch_seconds(self) -> float | None:
        """What an epoch's steps take at this pace; None at its last step."""
        left = self.steps - self.step
        return self.seconds_left * self.steps / left if left > 0 else None


@dataclass(frozen=True)
class LogTail:
    """What a log tells of the process that wrote it last.

    Attributes:
        step: the last one that was logged.
        error: the last error, if nothing was logged after it.
        is_testing: whether the final test has begun.
        written: when something was written last, seconds since the epoch; None: there is no log.
    """

    step: Step | None = None
    error: str | None = None
    is_testing: bool = False
    written: float | None = None


def read_log_tail(folder: Path) -> LogTail:
    """Read the log of a run's folder; it stands beside it, under its name, or in it."""
    names = [folder.with_name(folder.name + suffix) for suffix in _LOGS]
    for path in (*names, folder / "log.txt"):
        try:
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                file.seek(max(0, status.st_size - _BYTES))
                text = file.read().decode("utf-8", "replace")
        except OSError:
            continue
        return _parsed(text, status.st_mtime)
    return LogTail()


def _parsed(text: str, written: float) -> LogTail:
    step, error, is_testing = None, None, False
    for line in text.splitlines():
        fields = line.split("\t", 3)
        if len(fields) < 4:  # another line of the same message, or the first one, cut
            continue
        level, message = fields[1], fields[3]
        if message.startswith(_START):  # an earlier process's are above
            step, error, is_testing = None, None, False
            continue
        error = message if level in ("ERROR", "CRITICAL") else None
        is_testing = is_testing or message.startswith(_TEST)
        if (found := _STEP.match(message)) is not None:
            step = _step(*found.groups())
    return LogTail(step, error, is_testing, written)


def _step(*texts: str | None) -> Step | None:
    epoch, step, steps, days, hours, minutes, seconds = (int(text or 0) for text in texts[:7])
    try:
        _, speed, _, mean = (float(text or "nan") for text in texts[7:])
    except ValueError:
        return None
    left = ((24 * days + hours) * 60 + minutes) * 60 + seconds
    return Step(epoch, step + 1, steps, left, speed, mean)
