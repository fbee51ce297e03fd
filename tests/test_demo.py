"""The demo: what it repeats and what not, and how it stops (with stand-ins for the training)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml
from tiny import ROOT, Lab

from ladon.children import Children
from ladon.commands import demo
from ladon.config import load_config
from ladon.demo import SEED, Crew, Part


@pytest.fixture
def parts(tmp_path, monkeypatch) -> list[Part]:
    """A teacher, two students on it, and heads on the first one, as tiny configs."""
    monkeypatch.chdir(tmp_path)

    def part(name: str, *needs: Part) -> Part:
        path = Path(f"configs/{name}.yaml")
        path.parent.mkdir(exist_ok=True)
        dst = f"ckpt/{name}.pt"
        path.write_text(
            yaml.safe_dump({"models": {"model": {"dst_ckpt": dst}}, "train": {"lr": 1}})
        )
        return Part(name, "classification", path, needs)

    teacher = part("teacher")
    first, second = part("first", teacher), part("second", teacher)
    return [teacher, first, second, part("heads", first)]


class FakeChildren(Children):
    """Leaves what a run leaves behind; ``fails`` and ``breaks`` name parts that end early."""

    def __init__(self, parts: list[Part], fails: str = "", breaks: str = "") -> None:
        super().__init__()
        self.calls: list[str] = []
        self.env: dict[str, str] = {}
        self._parts = {str(p.config): p for p in parts}
        self._fails, self._breaks = fails, breaks

    def __call__(self, command, env, say) -> int:
        part = self._parts[command[command.index("--config") + 1]]
        self.calls.append(part.title + (" --resume" if "--resume" in command else ""))
        self.env[part.title] = env["OMP_NUM_THREADS"]
        begin(part)
        if part.title == self._breaks:
            return 130
        if part.title == self._fails:
            say("Traceback: no more memory")
            return 3
        finish(part)
        return 0


_clock = iter(range(10_000_000, 20_000_000))


def write(path: Path, text: str) -> None:
    """Writes a file that is newer than all before it, whatever the file system's clock."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    moment = next(_clock)
    os.utime(path, (moment, moment))


def begin(part: Part) -> None:
    write(
        part.folder / "config.yaml",
        load_config(part.config, data_root="data").dump(variables=False),
    )
    write(part.folder / "run.json", json.dumps({"seed": SEED}))
    write(part.folder / "last.pt", "")
    (part.folder / "metrics.json").unlink(missing_ok=True)


def finish(part: Part, mode: str = "train") -> None:
    write(part.checkpoint("data"), "")
    write(part.folder / "last.pt", "")
    write(part.folder / "metrics.jsonl", "{}\n")
    write(part.folder / "metrics.json", json.dumps({"mode": mode}))


def work(parts: list[Part], children: Children, cores: int = 1) -> tuple[int, list[str]]:
    said: list[str] = []
    return Crew(parts, "data", children, said.append, cores=cores).work(), said


def ran(parts: list[Part]) -> list[str]:
    """What a (successful) run of the demo repeats."""
    children = FakeChildren(parts)
    assert work(parts, children)[0] == 0
    return children.calls


EVERYTHING = ["teacher", "first", "second", "heads"]


def test_everything_runs_once_and_nothing_twice(parts):
    assert ran(parts) == EVERYTHING
    children = FakeChildren(parts)
    code, said = work(parts, children)
    assert (code, children.calls) == (0, [])
    assert said[0] == "[1/4] teacher: already done (logs/teacher)"
    assert len(said) == 4


def test_an_interrupted_part_goes_on(parts):
    children = FakeChildren(parts, breaks="first")
    code, said = work(parts, children)
    assert code == 130
    assert children.calls == ["teacher", "first"]
    assert "stopped after" in said[-1]
    assert ran(parts) == ["first --resume", "second", "heads"]


def test_a_failed_part_stops_the_demo_with_its_error_and_exit_code(parts):
    children = FakeChildren(parts, fails="second")
    code, said = work(parts, children)
    assert code == 3
    assert children.calls == ["teacher", "first", "second"]
    assert "no more memory" in said[-1]
    assert "[3/4] second: failed with exit code 3 (log: logs/second.txt)" in said[-1]


def test_a_changed_config_repeats_the_part_and_what_stands_on_it(parts):
    ran(parts)
    first = parts[1]
    first.config.write_text(first.config.read_text().replace("lr: 1", "lr: 2"))
    assert ran(parts) == ["first", "heads"]
    assert ran(parts) == []


def test_what_stands_on_an_older_teacher_is_repeated_even_after_an_interruption(parts):
    ran(parts)
    teacher, first = parts[:2]
    teacher.checkpoint("data").unlink()
    assert work(parts, FakeChildren(parts, breaks="first"))[0] == 130
    assert first.state("data") == "begun"
    assert ran(parts) == ["first --resume", "second", "heads"]


@pytest.mark.parametrize(
    ("spoil", "repeated"),
    [
        (lambda p: (p.folder / "run.json").write_text('{"seed": 1}'), "heads"),
        (lambda p: (p.folder / "run.json").write_text("{"), "heads"),
        (lambda p: p.checkpoint("data").unlink(), "heads"),
        (lambda p: (p.folder / "last.pt").unlink(), "heads"),
        (lambda p: (p.folder / "metrics.json").unlink(), "heads --resume"),
        (lambda p: finish(p, mode="test"), "heads --resume"),
    ],
    ids=["seed", "broken", "no checkpoint", "no last", "no result", "only tested"],
)
def test_only_the_same_finished_training_counts(parts, spoil, repeated):
    ran(parts)
    spoil(parts[-1])
    assert ran(parts) == [repeated]


def test_parts_run_side_by_side_with_a_thread_each(parts):
    both = threading.Barrier(2, timeout=10)

    class Meeting(FakeChildren):
        def __call__(self, command, env, say) -> int:
            code = super().__call__(command, env, say)
            if self._parts[command[command.index("--config") + 1]] in parts[1:3]:
                both.wait()  # fails unless the other student runs at the same time
            return code

    children = Meeting(parts)
    assert work(parts, children, cores=2)[0] == 0
    assert children.env == {"teacher": "2", "first": "1", "second": "1", "heads": "1"}


def test_the_demo_s_parts_are_the_shipped_configs(monkeypatch):
    monkeypatch.chdir(ROOT)
    made = demo.make_parts()
    assert len(made) == 1 + 3 * len(demo.BETAS)
    shipped = {p for p in demo.CONFIGS.rglob("*.yaml") if "_base_" not in p.parts}
    assert {part.config for part in made} == shipped
    for part in made:
        beta = load_config(part.config, data_root="data").beta
        if part.needs:
            assert part.title.endswith(f" β {beta:g}")
            assert f"-beta{beta:g}_" in f"{part.config.stem}_"
            assert len(part.config.read_text().splitlines()) <= 10
        else:
            assert beta is None


# stands in for a task script: says a line of the engine's, then waits for the signal
PATIENT = """\
import signal, sys, time
told = []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda signum, frame: told.append(signum))
print("date\\tINFO\\tladon.engine.train\\tEpoch: [0]\\t[0/9]", flush=True)
while not told:
    time.sleep(0.02)
sys.exit(128 + told[0])
"""

MAIN = """\
import sys
from pathlib import Path
import ladon.demo
from ladon.commands import demo
from ladon.demo import Part
demo.draw_scenes = lambda root: None
ladon.demo.child_command = lambda name: [sys.executable, "patient.py"]
demo.CONFIGS = Path("configs")
demo.make_parts = lambda: [Part(n, "classification", Path(f"configs/{n}.yaml")) for n in "ab"]
demo.usable_cores = lambda: 2
sys.exit(demo.main([]))
"""


@pytest.mark.slow
def test_a_real_part_is_finished_by_the_same_rules(tmp_path, scenes, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lab = Lab(Path(), scenes)
    teacher = Part("teacher", "classification", lab.config("teacher"))
    student = Part("student", "classification", lab.config("classification"), (teacher,))
    parts, root, said = [teacher, student], str(scenes), []
    with Children() as children:
        assert Crew(parts, root, children, said.append, cores=1).work() == 0, said
    assert any(line.startswith("      student | * Acc@1 ") for line in said)
    assert [part.state(root) for part in parts] == ["finished"] * 2
    (student.folder / "metrics.json").unlink()  # as if interrupted during the test
    with Children() as children:
        assert Crew(parts, root, children, said.append, cores=1).work() == 0, said
    assert any("[2/2] student: going on" in line for line in said)
    assert "Resuming from" in Path("logs/classification.txt").read_text()
    assert student.state(root) == "finished"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_all_children_and_is_the_exit_code(tmp_path, monkeypatch, signum):
    monkeypatch.chdir(tmp_path)
    Path("configs").mkdir()
    for name in "ab":
        Path(f"configs/{name}.yaml").write_text("lr: 1")
    Path("patient.py").write_text(PATIENT)
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN],
        env={**os.environ, "PYTHONPATH": str(ROOT / "scripts"), "PYTHONIOENCODING": "utf-8"},
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        start_new_session=True,
    )
    timer = threading.Timer(60, process.kill)
    timer.start()
    try:
        waiting, said = {"a", "b"}, []
        while waiting:
            line = process.stdout.readline()
            assert line, said
            said.append(line)
            waiting -= {name for name in "ab" if line == f"      {name} | Epoch: [0]  [0/9]\n"}
        start = time.monotonic()
        process.send_signal(signum)
        out, _ = process.communicate()
        assert time.monotonic() - start < 20
    finally:
        timer.cancel()
        process.kill()
    assert process.returncode == 128 + signum
    assert out.count("stopped after") == 2
