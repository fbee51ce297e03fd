"""Kills runs at random points, goes on with them, and compares their ends with a whole run's.

PYTHONPATH=scripts python tests/killing.py --kills 50: of all three tasks in turn; the exit code is
1 if one end differs

A killed run is gone on with by the same command, which has --resume from the start. Half of the
kills come at a random time, half at a random one of the file operations (`killed_at.py`): those are
where a run can be torn. Training saves at every step, in the background.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import warm
from tiny import ROOT, SCRIPTS, TinyExperiment
from training_runs import assert_same_run, fresh

FAMILIES = ("classification", "detection", "segmentation")
_VALIDATION = {"dataset_id": "digit_scenes/val", "kwargs": {"batch_size": 32}}
_VALUES: dict[str, dict[str, Any]] = {
    # both stages are validated, so that each of them has a best checkpoint
    "classification": {"train__stage1": {"num_epochs": 1, "val_data_loader": _VALIDATION}},
    "detection": {},
    "segmentation": {},
}
KILLER = Path(__file__).with_name("killed_at.py")


@dataclass
class Killing:
    """Runs of one task that are killed.

    Args:
        lab: where they are; its teacher and classifier are trained.
        family: the task.

    Attributes:
        seconds: what a whole run took.
        operations: file operations of a whole run.
        kills: how many runs were killed so far, by time and by operation.
    """

    lab: TinyExperiment
    family: str
    seconds: float = 0.0
    operations: int = 0
    kills: dict[str, int] = field(default_factory=lambda: {"time": 0, "operation": 0})

    def _command(self, name: str, at: int) -> list[Any]:
        script = ROOT / "scripts" / f"{SCRIPTS[self.family]}.py"
        config = self.lab.folder / "configs" / f"{name}.yaml"
        if not config.is_file():
            fresh(self.lab, self.family, name, train__checkpoint_steps=1, **_VALUES[self.family])
        count = self.lab.folder / f"{name}.count"
        log = self.lab.folder / "logs" / f"{name}.txt"
        flags = ["--config", config, "--run_log", log, "--device", "cpu", "--resume"]
        return [KILLER, at, self.lab.folder, count, script, *flags, "-student_only"]

    def _run(self, name: str, at: int = 0, seconds: float = 600.0) -> int:
        """Run the one command; return its exit code, -9 if it was killed."""
        out = self.lab.folder / f"{name}.out"
        process = warm.start(self._command(name, at), out=out)
        process.join(seconds)
        process.kill()
        process.join()
        code = process.exitcode
        if code not in (0, -signal.SIGKILL):
            raise AssertionError(f"{name}: exit code {code}\n{out.read_text()}")
        return code

    def run_whole(self) -> None:
        """Make the run that the others are compared with: 'FAMILY-whole'."""
        start, name = time.monotonic(), f"{self.family}-whole"
        assert self._run(name) == 0
        self.seconds = time.monotonic() - start
        self.operations = int((self.lab.folder / f"{name}.count").read_text())

    def kill(self, name: str, rng: random.Random, *, by: str) -> bool:
        """Start or go on with a run and kill it; return whether the kill came before its end."""
        if by == "time":
            killed = self._run(name, seconds=rng.uniform(0, self.seconds)) != 0
        else:
            killed = self._run(name, at=rng.randint(1, self.operations)) != 0
        self.kills[by] += killed
        return killed

    def finish(self, name: str) -> None:
        """Go on with a run to its end, which must be the whole one's to the bit."""
        assert self._run(name) == 0
        assert_same_run(self.lab, f"{self.family}-whole", name)
        whole, ours = (
            self.lab.metrics(n)["models"]["student"]["payload_bytes"]
            for n in (f"{self.family}-whole", name)
        )
        assert whole == ours
        left = [p for p in self.lab.folder.rglob(".*") if p.suffix in (".tmp", ".lock")]
        assert left == [], left


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    """Do it for all tasks in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="runs to kill (default: 50)")
    parser.add_argument("--seed", type=int, default=0, help="of the points (default: 0)")
    args = parser.parse_args()
    from ladon.data.digits import make_digit_scenes

    rng, failed, number = random.Random(args.seed), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        make_digit_scenes(Path(folder, "data"), num_train=40, num_val=12)
        lab = TinyExperiment(Path(folder, "lab"), Path(folder, "data"))
        assert lab.run("teacher") == 0
        assert lab.run("classification") == 0
        tasks = [Killing(lab, family) for family in FAMILIES]
        for task in tasks:
            task.run_whole()
            _say(f"{task.family}: whole in {task.seconds:.1f} s, {task.operations} operations")
        while sum(sum(task.kills.values()) for task in tasks) < args.kills:
            task, name = tasks[number % 3], f"{tasks[number % 3].family}-{number}"
            by, number = ("time", "operation")[number // 3 % 2], number + 1
            killed = task.kill(name, rng, by=by)
            try:
                task.finish(name)
                said = "equal"
                shutil.rmtree(lab.folder / "logs" / name)  # some hundred megabytes each
                (lab.folder / f"{name}.pt").unlink()
            except AssertionError as error:
                failed += 1
                said = f"DIFFERS: {error}"
            _say(f"{name}: {'killed' if killed else 'not killed'} by {by}, {said}")
        for task in tasks:
            _say(f"{task.family}: killed by time {task.kills['time']}, by file operation "
                  f"{task.kills['operation']}")  # fmt: skip
        _say(f"{number} runs, {failed} ends differ from the whole run's")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
