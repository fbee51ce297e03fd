"""Sweeps on clusters: errands, SLURM (commands of the same names stand in for it), Ray."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ladon.commands import sweep as sweep_script
from ladon.errors import UsageError
from ladon.launch import child_command
from ladon.sweeps import nodes
from ladon.sweeps.errand import Errand
from ladon.sweeps.nodes import Resources

BETAS = ("0.32", "5.12")

# stands in for a task script: notes its arguments, fails where FAIL is part of its config's name
STUB = """\
import os, sys, time
from pathlib import Path
config = Path(sys.argv[sys.argv.index("--config") + 1])
with open("calls.txt", "a") as file:
    file.write(" ".join([config.stem, *[a for a in sys.argv if a == "--resume"]]) + "\\n")
print("working on", config.stem, flush=True)
if Path("wait").exists() and "--resume" not in sys.argv and "student" in config.stem:
    Path(f"{os.getpid()}.begun").touch()
    while Path("wait").exists():
        time.sleep(0.05)
sys.exit(3 if os.environ.get("LADON_FAIL", "none") in config.stem else 0)
"""

CONFIG = """\
beta: 1.0
models:
  model:
    key: resnet18
    dst_ckpt: ckpt/{name}-${{beta}}.pt
    src_ckpt: ckpt/{base}-${{beta}}.pt
train: {{num_epochs: 1}}
"""


@pytest.fixture
def family(tmp_path, monkeypatch) -> Path:
    """A folder with a family of a student and two heads, whose runs are the stub's."""
    monkeypatch.chdir(tmp_path)
    Path("configs").mkdir()
    for name, base in (("student", "x"), ("box", "student"), ("mask", "student")):
        Path(f"configs/{name}.yaml").write_text(CONFIG.format(name=name, base=base))
    Path("stub.py").write_text(STUB)
    stub = [sys.executable, str(tmp_path / "stub.py")]
    monkeypatch.setattr("ladon.sweeps.jobs.child_command", lambda name: stub)
    return tmp_path


def sweep(*flags: str) -> int:
    return sweep_script.main(["--configs", "configs", "--betas", *BETAS, *flags])


def calls() -> list[str]:
    return Path("calls.txt").read_text().splitlines()


def errand(folder: Path, code: str) -> Errand:
    command = [sys.executable, "-c", code]
    return Errand(command, [*command, "again"], str(folder), {"WORD": "told"}, lines=2)


def test_an_errand_runs_in_its_folder_and_keeps_the_last_lines(tmp_path):
    code = "import os, sys; print('a\\nb'); print(os.getcwd(), os.environ['WORD']); sys.exit(3)"
    assert errand(tmp_path, code).run() == (3, ["b", f"{tmp_path.resolve()} told"])


# saves its state when told to stop, like a task script
PATIENT = """\
import signal, sys, pathlib, time
signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path("saved").touch(), sys.exit(143)))
pathlib.Path("ready").touch()
time.sleep(100)
"""


def wait_for(path: Path) -> None:
    end = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_an_errand_that_slurm_takes_the_machine_from_saves_and_goes_on_later(tmp_path):
    begun = errand(tmp_path, PATIENT)
    thread = threading.Thread(target=begun.run)
    thread.start()
    wait_for(tmp_path / "ready")
    again = begun.checkpoint()
    thread.join()
    assert (tmp_path / "saved").exists()
    assert again.function.command == begun.resumed


TIED = """\
import sys
sys.path.insert(0, sys.argv[1])
from ladon.sweeps.errand import Errand
code = "import os, pathlib, time; pathlib.Path('pid').write_text(str(os.getpid())); time.sleep(100)"
Errand([sys.executable, "-c", code], [], sys.argv[2], {}, 2).run()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_an_errand_s_command_ends_with_the_process_that_runs_it(tmp_path):
    """Else it would hold its folder's lock, and its successor would be refused."""
    scripts = str(Path(nodes.__file__).parents[2])
    process = subprocess.Popen([sys.executable, "-c", TIED, scripts, str(tmp_path)])
    wait_for(tmp_path / "pid")
    while not (tmp_path / "pid").read_text():
        time.sleep(0.02)
    child = int((tmp_path / "pid").read_text())
    process.send_signal(signal.SIGKILL)
    process.wait()
    end = time.monotonic() + 60
    while _runs(child):
        assert time.monotonic() < end
        time.sleep(0.02)


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"  # whoever inherits it may be slow to bury it


def test_several_gpus_are_a_process_each(monkeypatch):
    command = Resources(gpus=4)._on_all_gpus([*child_command("object_detection"), "--config", "c"])
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=4"]
    assert command[1:5] == launcher
    assert command[5].endswith("scripts/object_detection.py")
    monkeypatch.setattr(sys, "argv", ["ladon", "sweep"])
    command = Resources(gpus=2)._on_all_gpus(child_command("object_detection"))
    assert command[1:3] == ["-P", "-m"]
    assert command[-3:] == ["-m", "ladon", "object_detection"]


@pytest.mark.parametrize(("engine", "name"), [("ray", "ray"), ("slurm", "submitit")])
def test_a_missing_library_is_named(family, monkeypatch, capsys, engine, name):
    monkeypatch.setitem(sys.modules, name, None)
    assert sweep("--engine", engine) == 2
    assert f"error: --engine {engine} needs {name}: pip install {name}" in capsys.readouterr().err


def test_without_slurm_that_is_said(family, monkeypatch, capsys):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", "/nowhere")
    assert sweep("--engine", "slurm") == 2
    err = capsys.readouterr().err
    assert "--engine slurm: cannot submit" in err
    assert "run it where sbatch and srun are" in err


# sbatch: notes the script and runs its jobs at once, unless one they wait for has failed
SBATCH = """\
import os, re, subprocess, sys
from pathlib import Path
text = Path(sys.argv[1]).read_text()
options = dict(re.findall(r"#SBATCH --([\\w-]+)=(.*)", text))
state = Path(os.environ["SLURM_STATE"])
number = len(list(state.glob("*.sh"))) + 1
(state / f"{number}.sh").write_text(text)
print(f"Submitted batch job {number}", flush=True)
low, high = re.match(r"(\\d+)-(\\d+)", options.get("array", "0-0")).groups()
with (state / "queue").open("a") as queue:
    for index in range(int(low), int(high) + 1):
        name = f"{number}_{index}" if "array" in options else str(number)
        after = options.get("dependency", "").strip("'").split(":")[1:]
        queue.write(" ".join([name, sys.argv[1], *after]) + "\\n")
"""
SRUN = '#!/bin/sh\nwhile [ "$1" != "$PYTHON" ]; do shift; done\nexec "$@"\n'


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> Path:
    """Commands that stand in for SLURM's; the folder where they note what they are told."""
    pytest.importorskip("submitit")
    tools, state = tmp_path / "tools", tmp_path / "slurm"
    tools.mkdir()
    state.mkdir()
    (tools / "sbatch").write_text(f"#!{sys.executable}\n{SBATCH}")
    (tools / "srun").write_text(SRUN)
    for tool in tools.iterdir():
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_STATE", str(state))
    monkeypatch.setenv("PYTHON", sys.executable)
    return state


def run_queue(state: Path) -> dict[str, bool]:
    """Run what was submitted, as SLURM would; return whether each job succeeded."""
    done: dict[str, bool] = {}
    for line in (state / "queue").read_text().splitlines():
        name, _, *after = line.split()
        if not all(done.get(other) for other in after):
            continue  # afterok
        number, _, index = name.partition("_")
        env = {**os.environ, "SLURM_JOB_ID": number}
        if index:
            env |= {"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": index}
        ended = subprocess.run(
            ["bash", str(state / f"{number}.sh")], env=env, capture_output=True, text=True
        )
        done[name] = ended.returncode == 0
    return done


def test_slurm_gets_arrays_that_wait_for_what_they_stand_on(family, slurm, capsys):
    """Run as SLURM would: an array of students, for each of them one of its heads."""
    flags = ["--slurm", "partition=gpu", "time=600"]
    assert sweep("--engine", "slurm", "--gpus_per_job", "1", "--cpus_per_job", "3", *flags) == 0
    out = capsys.readouterr().out
    assert "(student) β 0.32: job 1_0: logs/student-beta0.32.txt" in out
    assert "(mask) β 5.12: job 3_1 after 1_1: " in out
    scripts = {n: (slurm / f"{n}.sh").read_text() for n in (1, 2, 3)}
    assert not (slurm / "4.sh").exists()
    for option in ("array=0-1%2", "partition=gpu", "time=600", "gpus-per-node=1"):
        assert f"#SBATCH --{option}\n" in scripts[1], scripts[1]
    assert "dependency" not in scripts[1]
    assert "#SBATCH --dependency=afterok:1_0\n" in scripts[2]
    assert "#SBATCH --dependency=afterok:1_1\n" in scripts[3]
    assert "#SBATCH --kill-on-invalid-dep=yes\n" in scripts[3]
    assert run_queue(slurm) == dict.fromkeys(("1_0", "1_1", "2_0", "2_1", "3_0", "3_1"), True)
    assert calls() == ["student", "student", *["box", "mask"] * 2]


def test_a_failed_job_of_slurm_s_keeps_back_what_stands_on_it(family, slurm, monkeypatch):
    monkeypatch.setenv("LADON_FAIL", "student")
    assert sweep("--engine", "slurm") == 0
    assert run_queue(slurm) == {"1_0": False, "1_1": False}
    assert calls() == ["student", "student"]
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")  # queued again by SLURM itself
    run_queue(slurm)
    assert calls()[2:] == ["student --resume", "student --resume"]


def test_without_a_ray_cluster_that_is_said(family, monkeypatch, capsys):
    pytest.importorskip("ray")
    from ladon.sweeps.on_ray import RayEngine

    def refuse(*args, **kwargs):
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setattr("ray.init", refuse)
    with pytest.raises(UsageError, match="there is no Ray cluster at 'auto'"):
        RayEngine("auto", Resources()).__enter__()
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


# in a process of its own, because Ray reads how it authenticates once, when it is imported
ON_RAY = """\
import sys, threading, time
from pathlib import Path
from ray_nodes import lose, two_nodes
import ladon.sweeps.jobs
from ladon.commands import sweep
from ladon.sweeps.nodes import Resources
from ladon.sweeps.on_ray import RayEngine

def wait_for_a_run():
    while not Path("ready").exists():
        time.sleep(0.02)
    engine.stop()

def let_go():
    # not before the run on the lost node is gone: it would still hand its result over
    while all(Path("/proc", path.stem).exists() for path in Path().glob("*.begun")):
        time.sleep(0.05)
    Path("wait").unlink()

ladon.sweeps.jobs.child_command = lambda name: [sys.executable, "stub.py"]
with two_nodes() as (cluster, node):
    both = lambda: len(list(Path().glob("*.begun"))) == 2
    lost = lose(cluster, node, both, then=let_go)
    flags = ["--configs", "configs", "--betas", "0.32", "5.12", "--address", cluster.address]
    print("sweep ended with", sweep.main([*flags, "--engine", "ray"]), flush=True)
    lost.join()
    with RayEngine(cluster.address, Resources()) as engine:
        threading.Thread(target=wait_for_a_run, daemon=True).start()
        ended = engine.run([sys.executable, "patient.py"])
        print("stopped with", ended.code, flush=True)
"""


@pytest.mark.slow
def test_a_run_on_a_lost_node_goes_on_elsewhere_and_a_signal_reaches_all(family):
    """On a real cluster of two nodes, with stand-ins for the runs."""
    pytest.importorskip("ray")
    Path("wait").touch()  # each node has a student that waits until the other node is gone
    Path("patient.py").write_text(PATIENT)
    path = f"{Path(nodes.__file__).parents[2]}:{Path(__file__).parent}"
    env = {**os.environ, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        [sys.executable, "-c", ON_RAY], env=env, capture_output=True, encoding="utf-8", timeout=240
    )
    assert "sweep ended with 0\n" in done.stdout, done.stdout + done.stderr
    assert done.stdout.count("its node is lost (") == 1
    assert calls()[:3] == ["student", "student", "student --resume"]
    assert sorted(calls()[3:]) == ["box", "box", "mask", "mask"]
    assert "stopped with 143\n" in done.stdout, done.stdout + done.stderr
    assert Path("saved").exists()
