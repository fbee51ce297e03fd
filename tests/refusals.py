"""What the tests of bad input share: the one message that a person sees."""

from __future__ import annotations

import re
from pathlib import Path

STUDENT = "models.student_model"
TEST_STUDENT = ("-test_only", "-student_only")


def message_of(shown: str, log: Path | None = None) -> str:
    """The one message among what was shown: before logging is set up, or as the last log line."""
    assert "Traceback" not in shown
    early = re.findall(r"^error: (.*)", shown, flags=re.MULTILINE | re.DOTALL)
    late = [line.split("\t")[-1] for line in shown.splitlines() if "\tERROR\t" in line]
    assert len(early) + len(late) == 1, shown
    if late and log is not None and log.is_file():
        assert log.read_text().rstrip().splitlines()[-1].endswith(f"\tERROR\tladon.cli\t{late[0]}")
    return (early + late)[0].rstrip()


def edited(path: Path, old: str, new: str) -> Path:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return path


def line_of(path: Path, text: str) -> int:
    return path.read_text().split(text)[0].count("\n") + 1
