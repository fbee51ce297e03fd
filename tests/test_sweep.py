"""Sweeps over β and run folders (with stand-ins for what they start)."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny import ROOT
from warm_engine import WarmEngine

from ladon.commands import sweep as sweep_script
from ladon.errors import UsageError
from ladon.paths import run_folder, run_log_path
from ladon.sweeps.betas import Sweep
from ladon.sweeps.engines import Ended, LocalEngine
from ladon.sweeps.jobs import always_new, by_results
from ladon.sweeps.results import SweepResult
from ladon.sweeps.scheduler import Scheduler, Watcher
from ladon.tasks import TASKS, find_task

# stands in for a task script: notes its arguments, fails for the β named in FAIL
STUB = """\
import os, sys
with open("calls.txt", "a") as file:
    file.write(" ".join(sys.argv[1:]) + "\\n")
print("working", flush=True)
sys.exit(3 if f"beta{os.environ.get('FAIL')}." in sys.argv[2] else 0)
"""


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("configs/x").mkdir(parents=True)
    for beta in ("0.32", "1.28", "5.12"):
        Path(f"configs/x/m-beta{beta}.yaml").write_text("{}")
    Path("stub.py").write_text(STUB)
    monkeypatch.setattr("ladon.sweeps.jobs.child_command", lambda name: [sys.executable, "stub.py"])
    return tmp_path


def make(**changes) -> Sweep:
    values = {
        "task": TASKS["image_classification"],
        "config": "configs/x/m-beta{beta}.yaml",
        "betas": ("0.32", "1.28", "5.12"),
        **changes,
    }
    return Sweep(**values)


class FakeEngine(LocalEngine):
    """Gives each command to a function, which returns its exit code."""

    def __init__(self, run) -> None:
        super().__init__()
        self._run = run

    def run(self, command, say=None, *, alone=False) -> Ended:
        return Ended(self._run(command))


def run_sweep(sweep: Sweep, run=None, resume: bool = False) -> SweepResult:
    jobs, state_of = sweep.jobs(), by_results if resume else always_new
    with FakeEngine(run) if run else LocalEngine() as engine:
        outcomes = Scheduler(jobs, engine, Watcher(), state_of).work()
    return SweepResult.of(jobs, outcomes, engine.received)


def finish(folder: str, mode: str) -> None:
    Path(folder).mkdir(parents=True)
    Path(folder, "metrics.json").write_text(json.dumps({"mode": mode}))


@pytest.mark.parametrize(
    ("config", "run_log", "folder", "log"),
    [
        ("configs/a/x-beta0.32.yaml", None, "logs/a/x-beta0.32", "logs/a/x-beta0.32.txt"),
        ("legacy/configs/a/x.yaml", None, "logs/legacy/a/x", "logs/legacy/a/x.txt"),
        ("/home/me/configs/w/configs/a/x.yml", None, "logs/a/x", "logs/a/x.txt"),
        ("mine/x-beta0.32.yaml", None, "logs/x-beta0.32", "logs/x-beta0.32.txt"),
        ("configs/x.yaml", "out/y-beta0.32.txt", "out/y-beta0.32", "out/y-beta0.32.txt"),
        ("configs/x.yaml", "out/y-beta0.32", "out/y-beta0.32", "out/y-beta0.32/log.txt"),
        (
            "configs/x.yaml",
            "out/y-beta0.32_r50",
            "out/y-beta0.32_r50",
            "out/y-beta0.32_r50/log.txt",
        ),
        ("configs/x.yaml", "out/y.d/", "out/y.d", "out/y.d/log.txt"),
    ],
)
def test_paths_of_a_run(config, run_log, folder, log):
    assert run_folder(config, run_log) == Path(folder)
    assert run_log_path(config, run_log) == Path(log)


def test_runs_every_beta_in_order_and_goes_on_past_a_failure(workplace, monkeypatch):
    monkeypatch.setenv("FAIL", "0.32")
    result = run_sweep(make(passed_on=("--device", "cpu")))
    assert Path("calls.txt").read_text().splitlines() == [
        f"--config configs/x/m-beta{beta}.yaml --device cpu" for beta in ("0.32", "1.28", "5.12")
    ]
    assert [o.status for o in result.outcomes] == ["failed", "done", "done"]
    assert result.outcomes[0].detail == "exit code 3"
    assert result.finished_folders == [Path("logs/x/m-beta1.28"), Path("logs/x/m-beta5.12")]
    assert result.exit_code == 1


def test_command_substitutes_beta_as_typed(workplace):
    sweep = make(betas=("10.240",), run_log="out/{beta}/log.txt", test_only=True)
    assert sweep.job("10.240").arguments(resume=True) == [
        "--config",
        "configs/x/m-beta10.240.yaml",
        "--run_log",
        "out/10.240/log.txt",
        "-test_only",
    ]
    assert make().job("0.32").arguments(resume=True)[-1] == "--resume"


@pytest.mark.parametrize(
    ("test_only", "ran"), [(False, ["1.28", "5.12"]), (True, ["5.12"])], ids=["train", "test"]
)
def test_resume_skips_what_is_finished_in_the_same_mode(workplace, test_only, ran):
    finish("logs/x/m-beta0.32", "train")
    finish("logs/x/m-beta1.28", "test")
    Path("logs/x/m-beta5.12").mkdir()
    Path("logs/x/m-beta5.12/metrics.json").write_text("{")  # broken: runs again
    result = run_sweep(make(test_only=test_only), lambda command: 0, resume=True)
    assert result.betas("done") == ran
    assert len(result.finished_folders) == 3


def test_without_resume_nothing_is_skipped(workplace):
    finish("logs/x/m-beta0.32", "train")
    assert len(run_sweep(make(), run=lambda command: 0).betas("done")) == 3


@pytest.mark.parametrize(
    ("changes", "messages"),
    [
        ({"betas": ("0.32", "big", "-1", "nan")}, ["'big'", "'-1'", "'nan'"]),
        ({"betas": ("0.32", "9", "7")}, ["configs/x/m-beta9.yaml, configs/x/m-beta7.yaml"]),
        ({"betas": ("0.32", "0.32")}, ["β 0.32 is given more than once"]),
        ({"config": "configs/x/m-beta0.32.yaml"}, ["--config", "needs {beta}"]),
        ({"run_log": "out/log.txt"}, ["--run_log 'out/log.txt' needs {beta}"]),
        ({"passed_on": ("stray",)}, ["'stray' belongs to no flag"]),
    ],
)
def test_mistakes_are_found_before_anything_runs(workplace, changes, messages):
    def never(command):
        raise AssertionError(command)

    with pytest.raises(UsageError) as caught:
        run_sweep(make(**changes), run=never)
    assert all(message in str(caught.value) for message in messages)


def test_one_beta_needs_no_placeholder(workplace):
    sweep = make(config="configs/x/m-beta0.32.yaml", betas=("0.32",))
    assert run_sweep(sweep, run=lambda command: 0).exit_code == 0


ONE = "beta: 1.0\nmodels: {{student_model: {{dst_ckpt: {}}}}}\n"


@pytest.fixture
def one_config(workplace):
    """A config whose key is β, as are the names that follow from it."""
    path = Path("configs/x/mine-beta1.0.yaml")
    path.write_text(ONE.format("'best-${beta}.pt'"))
    return path


@pytest.mark.parametrize(
    ("name", "logs"),
    [
        ("mine-beta1.0.yaml", ["logs/x/mine-beta0.32.txt", "logs/x/mine-beta1.28.txt"]),
        ("other.yaml", ["logs/x/other-beta0.32.txt", "logs/x/other-beta1.28.txt"]),
        ("v1.5.yaml", ["logs/x/v1.5-beta0.32.txt", "logs/x/v1.5-beta1.28.txt"]),
    ],
)
def test_one_config_serves_several_betas(one_config, name, logs):
    config = one_config.rename(one_config.with_name(name))
    commands = []
    sweep = make(
        config=str(config), betas=("0.32", "1.28"), passed_on=("--json", '{"n": "{beta}"}')
    )
    result = run_sweep(sweep, run=lambda command: commands.append(command) or 0)
    for beta, log, command in zip(("0.32", "1.28"), logs, commands, strict=True):
        assert command[2:] == [
            "--config",
            str(config),
            "--run_log",
            log,
            "--set",
            f"beta={beta}",
            "--json",
            f'{{"n": "{beta}"}}',
        ]
    assert [str(outcome.job.log) for outcome in result.outcomes] == logs
    assert len({outcome.job.folder for outcome in result.outcomes}) == 2


def test_one_config_with_a_run_log_of_its_own(one_config):
    sweep = make(config=str(one_config), run_log="out/{beta}.txt")
    assert sweep.job("1.28").arguments() == [
        "--config",
        str(one_config),
        "--run_log",
        "out/1.28.txt",
        "--set",
        "beta=1.28",
    ]


def test_one_config_with_one_checkpoint_for_all_is_refused(one_config):
    """Each β would overwrite the one before."""
    one_config.write_text(ONE.format("best.pt"))
    with pytest.raises(UsageError, match=r"beta1\.0\.yaml:2: .*dst_ckpt is best\.pt whatever β is"):
        run_sweep(make(config=str(one_config)), run=lambda command: 0)


@pytest.mark.parametrize("fused", [False, True])
def test_a_model_for_every_rate_is_one_run(fused):
    config = str(ROOT / "configs/digit_scenes/ladon/splittable_resnet18-vr_from_resnet18.yaml")
    flags = ("--predictions", "found.jsonl")
    sweep = Sweep(find_task("detection"), config, ("0.32", "5.12"), fused=fused, passed_on=flags)
    (job,) = sweep.jobs()
    assert job.arguments() == ["--config", config, "--rate", "0.32", "5.12", *flags]
    assert (job.title, job.beta) == ("β 0.32, 5.12", None)
    with pytest.raises(UsageError, match="β must be a number above 0, not 'x'"):
        Sweep(find_task("classification"), config, ("x",)).jobs()


def test_arguments_are_split():
    arguments = (
        "--task detection --config c-{beta}.yaml --betas 0.32 1.28 -test_only -student_only "
        "--device cpu --set a.b=c --iou_types bbox segm -log_config"
    )
    request = sweep_script.parse_args(arguments.split())
    sweep = request.wanted
    assert sweep.task is TASKS["object_detection"]
    assert sweep.betas == ("0.32", "1.28")
    assert (sweep.test_only, request.args.resume) == (True, False)
    assert " ".join(sweep.passed_on) == (
        "-student_only --device cpu --set a.b=c --iou_types bbox segm -log_config"
    )


def test_script_prints_the_table_and_the_next_command(workplace, monkeypatch, capfd):
    monkeypatch.setenv("FAIL", "1.28")
    arguments = ["--task", "classification", "--config", "configs/x/m-beta{beta}.yaml"]
    assert sweep_script.main([*arguments, "--betas", "0.32", "1.28"]) == 1
    out, err = capfd.readouterr()
    assert out.index("β 0.32: configs/x/m-beta0.32.yaml") < out.index("working")
    assert "│ 1.28 │ failed (exit code 3) │ 0:00:0" in out
    assert "results: python scripts/report.py logs/x/m-beta0.32\n" in out
    assert err == "error: failed: β 1.28\n"
    assert sweep_script.main([*arguments, "--betas", "0.32", "x"]) == 2
    assert capfd.readouterr().err == "error: β must be a number above 0, not 'x'\n"
    assert sweep_script.main(["--task", "depth", *arguments[2:], "--betas", "0.32"]) == 2
    assert "error: no task is called 'depth' (known are image_class" in capfd.readouterr().err


def test_real_runs_are_swept_and_shown(own_lab, monkeypatch, capsys):
    """One config for two β, tested with the shared classifier."""
    monkeypatch.chdir(own_lab.folder)
    monkeypatch.setattr(sweep_script, "LocalEngine", WarmEngine)
    for beta in ("0.32", "5.12"):
        Path(f"swept-beta{beta}.pt").symlink_to(own_lab.checkpoint("classification"))
    config = own_lab.config(
        "classification", "swept", models__student_model__dst_ckpt="swept-beta${beta}.pt"
    )
    flags = ["--task", "classification", "--config", str(config), "--betas", "0.32", "5.12"]
    assert sweep_script.main([*flags, "-test_only", "-student_only", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert out.count("│ done") == 2
    found = [json.loads(path.read_text()) for path in sorted(Path("logs").rglob("metrics.json"))]
    assert [run["beta"] for run in found] == [0.32, 5.12]
    assert found[0]["models"]["student"]["metrics"] == found[1]["models"]["student"]["metrics"]


# saves its state when told to stop, like a task script, and notes how often it was told
PATIENT_STUB = """\
import pathlib, signal, sys, time
told = []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda signum, frame: told.append(signum))
pathlib.Path("ready").touch()
while not told:
    time.sleep(0.02)
time.sleep(0.2)
pathlib.Path("saved").write_text(" ".join(str(int(signum)) for signum in told))
sys.exit(128 + told[0])
"""

SWEEP_MAIN = """\
import sys
from pathlib import Path
import ladon.sweeps.jobs
from ladon.commands import sweep
ladon.sweeps.jobs.child_command = lambda name: [sys.executable, "stub.py"]
sys.exit(sweep.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_the_child_and_stops_the_sweep(workplace, signum):
    Path("stub.py").write_text(PATIENT_STUB)
    arguments = ["--task", "classification", "--config", "configs/x/m-beta{beta}.yaml"]
    process = subprocess.Popen(
        [sys.executable, "-c", SWEEP_MAIN, *arguments, "--betas", "0.32", "1.28"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "scripts"), "PYTHONIOENCODING": "utf-8"},
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        start_new_session=True,  # no terminal: the signal reaches the sweep alone
    )
    try:
        deadline = time.monotonic() + 20
        while not Path("ready").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signum)
        out, _ = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 128 + signum
    assert Path("saved").read_text() == str(int(signum))  # told once
    assert "interrupted" in out
    assert "not run" in out
