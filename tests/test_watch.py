"""`ladon watch`: how runs are, from their folders."""

from __future__ import annotations

import fcntl
import io
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from ladon.commands import watch as command
from ladon.commands.watch import Watching, main, watch
from ladon.engine.locking import Locks, look_at
from ladon.errors import UsageError
from ladon.tasks import TASKS
from ladon.watch.curves import curve
from ladon.watch.finding import Finder, short_names
from ladon.watch.log_tail import Step, read_log_tail
from ladon.watch.screen import curves_of, duration, screen
from ladon.watch.states import read_run, seconds_left

NOW = 2_000_000_000.0
STAGES = [{"name": "stage1", "epochs": 4}, {"name": "stage2", "epochs": 6}]
LINE = "2026/11/27 06:00:00\tINFO\tladon.engine.student_trainer\t"


def record(epoch: int, stage: int = 1, **more) -> dict:
    return {
        "stage": stage,
        "epoch": epoch,
        "steps": 50,
        "train_loss": 10.0 / (epoch + 1),
        "train_seconds": 90.0 * stage,
        "best": False,
        **more,
    }


class Folder:
    """A run's folder and log, written by hand."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True)
        shown = TASKS["image_classification"].view.as_plain()
        self.write("run.json", json.dumps({"stages": STAGES, "shown": shown}))

    def write(self, name: str, text: str, age: float = 0.0) -> None:
        file = self.path / name
        file.write_text(text)
        os.utime(file, (NOW - age, NOW - age))

    def epochs(self, *records: dict, torn: str = "", age: float = 0.0) -> None:
        self.write("metrics.jsonl", "".join(f"{json.dumps(r)}\n" for r in records) + torn, age)

    def log(self, *messages: str, age: float = 0.0) -> None:
        text = "".join(f"{m if m.startswith('2026') else LINE + m}\n" for m in messages)
        self.write(f"../{self.path.name}.txt", text, age)

    def state(self) -> str:
        return read_run(self.path, NOW).state


@pytest.fixture
def run(tmp_path):
    return Folder(tmp_path / "logs" / "one")


def step_line(epoch: int, step: int, eta: str = "0:01:40") -> str:
    return f"Epoch: [{epoch}]\t[{step}/50]\teta: {eta}\tlr: 0.1\timg/s: 12.50\tloss: 3.1 (2.9)"


def text_of(renderable, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(renderable)
    return console.file.getvalue()


def test_states_of_a_runs_life(run, tmp_path):
    other = tmp_path / "logs" / "two"
    assert read_run(other, NOW).state == "waiting"
    assert run.state() == "stopped"
    locks = Locks()
    locks.take(run.path / ".lock", "it", "no")
    assert run.state() == "starting"
    run.log("Config x", step_line(0, 9))
    assert run.state() == "running"
    run.epochs(*(record(e) for e in range(10)))
    run.log("Config x", step_line(9, 49), "[Student: resnet18]")
    assert run.state() == "testing"
    run.write("metrics.json", "{}")
    locks.release()
    assert run.state() == "finished"


def test_how_a_run_ended(run):
    run.epochs(record(0))
    said = LINE.replace("INFO", "ERROR").replace("student_trainer", "cli")
    run.log("Config x", f"{said}interrupted in epoch 1 after step 3; last.pt is saved")
    found = read_run(run.path, NOW)
    assert (found.state, found.detail[:24]) == ("interrupted", "interrupted in epoch 1 a")
    assert found.seconds_left is not None
    run.log("Config x", f"{said}loss is nan")
    found = read_run(run.path, NOW)
    assert (found.state, found.detail) == ("failed", "loss is nan")
    run.log(f"{said}loss is nan", "Config x", step_line(1, 0))
    assert run.state() == "stopped", "what an earlier process said does not count"


def test_a_killed_run_leaves_its_lock(run):
    run.epochs(record(0))
    run.write(".lock", f"4000000 {socket.gethostname()}\n")
    assert run.state() == "died"
    run.write("metrics.json", "{}", age=60)  # of the training, before the test that was killed
    assert run.state() == "died"
    run.write("metrics.json", "{}", age=-1)
    assert run.state() == "finished"


def test_a_run_of_another_machine_is_judged_by_what_it_writes(run):
    run.write(".lock", "17 another-host\n")
    run.epochs(record(0), age=100)
    run.log("Config x", step_line(1, 1), age=60)
    assert run.state() == "running"
    run.epochs(record(0), age=4000)
    run.log("Config x", step_line(1, 1), age=3600)
    assert run.state() == "silent"


def test_looking_keeps_nobody_out(tmp_path):
    path = tmp_path / ".lock"
    assert look_at(path) == "free"
    locks = Locks()
    locks.take(path, "it", "no")
    assert look_at(path) == "held"
    with pytest.raises(UsageError, match="it is in use by another run, process"):
        Locks().take(path, "it", "no")
    locks.release()
    assert look_at(path) == "free"
    path.write_text("")
    assert look_at(path) == "unknown"


def test_a_run_starts_although_somebody_looks(tmp_path, monkeypatch):
    path = tmp_path / ".lock"
    path.touch()
    looking = os.open(path, os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    monkeypatch.setattr("ladon.engine.locking.time.sleep", lambda _: os.close(looking))
    locks = Locks()
    locks.take(path, "it", "no")
    assert look_at(path) == "held"
    locks.release()


def test_the_last_step_of_a_log(run):
    run.log("Config x", step_line(2, 24, "1 day, 2:00:30"))
    step = read_log_tail(run.path).step
    assert step == Step(2, 25, 50, 93630.0, 12.5, 2.9)
    assert step.epoch_seconds == 2 * 93630.0
    (run.path.parent / "one.txt").rename(run.path / "log.txt")
    assert read_log_tail(run.path).step == step
    (run.path / "log.txt").write_bytes(b"\xff\x00" * 1000 + b"\nx\ty\n")
    assert read_log_tail(run.path).step is None


@pytest.mark.parametrize(
    ("epochs", "step", "expected"),
    [
        ([], None, None),
        # 4 + 6 epochs of 200 s by the pace of the first one's steps, half of which are done
        ([], Step(0, 25, 50, 100.0, 1, 1), 10 * 200 - 100),
        # two of 90 s and a validation of 10: two more, then six as long as those
        ([record(0, val_seconds=10.0), record(1, val_seconds=10.0)], None, 2 * 100 + 6 * 100),
        # stage 2 has its own pace, whatever stage 1 took
        ([*(record(e) for e in range(4)), record(4, 2)], None, 5 * 180),
        ([*(record(e) for e in range(4)), record(4, 2)], Step(5, 10, 50, 1.0, 1, 1), 4.8 * 180),
        ([record(e) for e in range(4)], Step(4, 25, 50, 10.0, 1, 1), 6 * 20 - 10),
        ([record(e, 1 + (e > 3)) for e in range(10)], None, 0),
    ],
)
def test_what_is_left_of_all_stages(epochs, step, expected):
    stages = [(stage["name"], stage["epochs"]) for stage in STAGES]
    found = seconds_left(stages, epochs, step)
    assert found == (None if expected is None else pytest.approx(expected))
    assert seconds_left([], epochs, step) is None


def test_a_running_runs_time_goes_by(run):
    """Between two lines of its log, which may be an hour apart; not beyond the epoch's end."""
    locks = Locks()
    locks.take(run.path / ".lock", "it", "no")
    left = []
    for age in (0, 40, 1000):
        run.log("Config x", step_line(0, 24), age=age)
        left.append(read_run(run.path, NOW).seconds_left)
    locks.release()
    assert left == [1900, 1860, 1800]


def test_the_table_says_it_all(run):
    value = {"acc1": 61.25, "acc5": 90.0}
    run.epochs(
        record(3, images_per_s=81.5),
        record(4, 2, best=True, val=value, bpp=None),
        record(5, 2, val={"acc1": 60.0}),
        torn='{"stage": 2, "epoch": 6, "tra',
    )
    run.log("Config x", step_line(6, 9))
    run.write("last.pt", "", age=300)
    found = read_run(run.path, NOW)
    assert [r["epoch"] for r in found.epochs] == [3, 4, 5]
    text = text_of(screen([("one", found)], 120))
    words = " ".join(text.split())
    assert "one stopped 2/2 6/10 10/50 2.9 acc1 61.250 12.5" in words
    assert "5 min 00 s ago" in text
    titles = [title for title, _ in curves_of(found)]
    assert titles == ["stage1 loss", "stage2 loss", "acc1"], "two stages are two curves"
    assert "stage2 loss 2 → 1.667" in text
    narrow = text_of(screen([("one", found)], 60), 60)
    assert max(map(len, narrow.splitlines())) <= 60


def test_lines_that_no_run_writes_are_left_out(run):
    run.epochs(
        record(0, val=7),
        record(0, train_seconds="long"),
        record(0) | {"stage": "x"},
        torn='[]\nnull\n{"epoch": "x"}\n',
    )
    assert not read_run(run.path, NOW).epochs
    for text in ("{", "[]", '{"stages": 7, "shown": 3}', '{"stages": [{"name": 1}], "shown": {}}'):
        run.write("run.json", text)
        assert text_of(screen([("one", read_run(run.path, NOW))], 80))


def test_a_screen_has_room_for_some_curves(run):
    run.epochs(record(0), record(1))
    found = read_run(run.path, NOW)
    for height in (12, 16, 20, 24, 30, 60):
        runs = [(str(n), found) for n in range(5)]
        lines = text_of(screen(runs, 80, height), 80).splitlines()
        assert len(lines) < height
        assert lines[-1].startswith("and curves of ") == (height < 60)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59, "59 s"), (61, "1 min 01 s"), (4000, "1 h 06 min"), (360000, "4 d 4 h")],
)
def test_times_are_short(seconds, text):
    assert duration(seconds) == text


def test_a_curve_of_dots():
    # eight dots across, four down: a straight line from the top to the bottom
    assert curve([3, 2, 1, 0], 2, 1) == ["⠑⢄"]
    assert curve([0, 3], 1, 1) == ["⡜"]
    assert curve([5.0], 2, 1) == ["⠄⠀"], "of equal values in the middle"
    assert curve([], 2, 1) == curve([float("inf")], 2, 1) == ["⠀⠀"]
    assert [len(line) for line in curve(range(100), 7, 3)] == [7, 7, 7]


def test_runs_are_found_by_folder_log_and_file(run, tmp_path):
    Folder(tmp_path / "logs" / "group" / "two")
    (tmp_path / "logs" / "one" / "wandb").mkdir()
    (tmp_path / "logs" / "one" / "wandb" / "run.json").touch()
    run.log("x")
    logs = tmp_path / "logs"
    two = logs / "group" / "two"
    assert Finder([logs]).find() == [two, run.path]
    for path in (run.path, logs / "one.txt", run.path / "run.json"):
        assert Finder([path, run.path]).find() == [run.path]
    assert short_names([run.path, two]) == ["one", "group/two"]
    assert short_names([run.path]) == ["one"]


def test_a_folder_that_is_no_run_is_refused(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / "empty"), "--once"]) == 2
    assert capsys.readouterr().err.startswith(f"error: no run in {tmp_path}/empty: name run fold")
    assert main([str(tmp_path / "missing")]) == 2
    assert capsys.readouterr().err == f"error: no such run: {tmp_path}/missing\n"


def test_without_a_terminal_it_is_shown_once(run, capsys):
    run.epochs(record(0))
    assert main([str(run.path), str(run.path.parent / "later")]) == 0
    text = capsys.readouterr().out
    assert "one" in text
    assert "waiting" in text
    assert "\x1b" not in text


def test_runs_that_come_and_go_while_they_are_watched(run, tmp_path, monkeypatch, capsys):
    console = Console(file=io.StringIO(), force_terminal=True, width=100, height=30)
    shown, logs = [], tmp_path / "logs"

    def wait(_seconds):
        shown.append(console.file.getvalue())
        console.file.truncate(0)
        if len(shown) == 1:
            Folder(logs / "late").epochs(record(0))
        elif len(shown) == 2:
            shutil.rmtree(run.path)
        else:
            raise KeyboardInterrupt

    watching = Watching([logs])
    monkeypatch.setattr(command, "make_console", lambda: console)
    monkeypatch.setattr(command.threading.Event, "wait", lambda _, seconds: wait(seconds))
    capsys.readouterr()
    assert main([str(logs)]) == 130
    assert capsys.readouterr().err == "", "quietly"
    assert "late" not in shown[0]
    assert "late" in shown[1]
    assert "removed" in shown[2]
    assert "\x1b[?25h" in console.file.getvalue(), "the cursor is back"
    with pytest.raises(KeyboardInterrupt):
        watch(watching, console, 1, wait)


def test_nothing_heavy_is_loaded():
    """It starts at once, beside a training that has all cores."""
    heavy = "[m for m in ('torch', 'numpy', 'matplotlib') if m in sys.modules]"
    code = f"import sys, ladon.commands.watch; print({heavy})"
    root = Path(command.__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True
    )
    assert done.stdout == "[]\n"
