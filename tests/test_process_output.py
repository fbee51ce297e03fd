"""What scripts write, and where: odd terminals, closed pipes, compiled code of read-only disks."""

from __future__ import annotations

import logging
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from tiny import ROOT

from ladon import process
from ladon.errors import LadonError
from ladon.logs import set_up_logging, shut_down_logging
from ladon.process import keep_compiled_code

PRINTS = "from ladon.process import run_script; import sys, os\n"


def script(code):
    """A script of its own, with the output of a terminal that is not UTF-8."""
    return subprocess.run(
        [sys.executable, "-c", PRINTS + code],
        cwd=ROOT / "scripts",
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": "ascii:strict"},
        timeout=60,
    )


@pytest.mark.parametrize("name", ["stdout", "stderr"])
@pytest.mark.parametrize("text", ["\\u03b2 0.32", "caf\\udce9.png"])
def test_what_a_terminal_cannot_show_is_written_as_an_escape(name, text):
    done = script(f"run_script(lambda: print('{text}', file=sys.{name}) or 3)")
    assert done.returncode == 3
    assert getattr(done, name) == text.replace("\\\\", "\\").encode() + b"\n"


@pytest.mark.parametrize(
    ("main", "code"),
    [("0", 0), ("2", 2), ("sys.exit(2)", 2), ("sys.exit('why')", 1), ("sys.exit()", 0)],
)
def test_a_script_ends_with_mains_code(main, code):
    assert script(f"run_script(lambda: {main})").returncode == code


@pytest.mark.parametrize(
    "main", ["print('x' * 100_000)", "print('x') or 0", "sys.exit(print('x'))"]
)
def test_a_reader_that_leaves_early_gets_no_traceback(main):
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.run(
        [sys.executable, "-c", f"{PRINTS}run_script(lambda: {main})"],
        cwd=ROOT / "scripts",
        stdout=writing,
        stderr=subprocess.PIPE,
        timeout=60,
    )
    os.close(writing)
    assert (process.returncode, process.stderr) == (1, b"")


@pytest.mark.parametrize("name", ["report", "sweep", "validate", "checkpoint", "benchmark", "demo"])
def test_help_can_be_read_anywhere(name):
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / f"{name}.py", "--help"],
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": "ascii:strict"},
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"usage" in done.stdout


def test_a_log_line_is_not_lost_for_a_file_name_that_is_no_text(tmp_path):
    set_up_logging(tmp_path / "run.txt")
    logging.getLogger("ladon").error("cannot read %s", os.fsdecode(b"caf\xe9.png"))
    shut_down_logging()
    assert "cannot read caf\\udce9.png" in (tmp_path / "run.txt").read_text()


@pytest.mark.parametrize("places", [("package",), ("home",), ("package", "home"), ()])
def test_compiled_code_has_a_place(tmp_path, monkeypatch, places):
    """Of a read-only checkout without a writable home: among the temporary files."""
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    allowed = {"package": tmp_path / "package", "home": tmp_path / "home"}
    writable = [allowed[place] for place in places]
    monkeypatch.setattr(
        process, "_is_writable", lambda folder: any(w in folder.parents for w in writable)
    )
    keep_compiled_code(allowed["package"], allowed["home"])
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    if places:
        assert chosen is None
        return
    assert Path(chosen).parent == tmp_path / "tmp"
    assert stat.S_IMODE(Path(chosen).stat().st_mode) == 0o700
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    keep_compiled_code(allowed["package"], allowed["home"])
    assert os.environ["NUMBA_CACHE_DIR"] == chosen, "the next process finds what was compiled"
    # one that others could write to, or another's, holds code of theirs
    Path(chosen).chmod(0o777)
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    keep_compiled_code(allowed["package"], allowed["home"])
    assert os.environ["NUMBA_CACHE_DIR"] != chosen


def test_a_chosen_place_for_compiled_code_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", "chosen")
    monkeypatch.setattr(process, "_is_writable", lambda folder: False)
    keep_compiled_code(tmp_path)
    assert os.environ["NUMBA_CACHE_DIR"] == "chosen"


def test_a_folder_is_writable_if_a_file_can_be_made_there(tmp_path):
    assert process._is_writable(tmp_path / "not" / "yet")
    assert not process._is_writable(Path("/proc/self"))


FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")


def test_a_pipe_gets_whole_lines_even_with_colours_forced():
    code = (
        "from ladon.logs import set_up_logging; import logging\n"
        "set_up_logging(); logging.getLogger('ladon').info('word ' * 100 + 'end')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT / "scripts",
        capture_output=True,
        text=True,
        env=os.environ | {"FORCE_COLOR": "1", "COLUMNS": "40"},
        timeout=60,
    )
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.endswith("word end\n")


def test_processes_other_than_the_first_say_only_errors(tmp_path, capfd):
    set_up_logging(tmp_path / "run.txt", is_main=False)
    own_level = logging.getLogger("PIL")  # asks for warnings itself
    assert own_level.level == logging.WARNING
    for logger in (own_level, logging.getLogger("ladon"), logging.getLogger("py.warnings")):
        logger.warning("warned")
    logging.getLogger("ladon").error("failed")
    shut_down_logging()
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert "failed" in said
    assert not (tmp_path / "run.txt").exists()


@pytest.mark.parametrize(
    ("place", "world_size", "is_quiet"),
    [
        ({"RANK": "1", "WORLD_SIZE": "2"}, 1, True),
        ({"RANK": "0", "WORLD_SIZE": "2"}, 1, False),
        ({"RANK": "x", "WORLD_SIZE": "2"}, 1, False),
        ({"SLURM_PROCID": "1"}, 2, True),
        ({"SLURM_PROCID": "1"}, 1, False),
        ({}, 1, False),
    ],
)
def test_the_first_process_warns_for_all(place, world_size, is_quiet):
    """Before logging is set up, too, and torch in its own words."""
    code = (
        f"from ladon.cli import prepare_process; prepare_process({world_size})\n"
        "import logging, os, warnings; warnings.warn('warned'); logging.warning('warned')\n"
        "print(os.environ.get('TORCH_CPP_LOG_LEVEL'))"
    )
    names = ("RANK", "WORLD_SIZE", "SLURM_PROCID", "TORCH_CPP_LOG_LEVEL")
    env = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT / "scripts",
        capture_output=True,
        text=True,
        env=env | place,
        timeout=60,
    )
    assert done.stdout == ("ERROR\n" if is_quiet else "None\n"), done.stderr
    assert (done.stderr == "") is is_quiet


@needs_full
@pytest.mark.parametrize("main", ["print('x' * 100_000)", "print('x') or 0"])
def test_output_to_a_full_disk_is_one_line(main):
    with FULL.open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", f"{PRINTS}run_script(lambda: {main})"],
            cwd=ROOT / "scripts",
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert done.returncode == 1
    assert done.stderr == (
        "error: the standard output: cannot be written: No space left on device; make room on that "
        "disk\n"
    )


def test_other_errors_of_the_system_stay_what_they_are():
    done = script("run_script(lambda: open('/nowhere/x'))")
    assert b"Traceback" in done.stderr
    assert done.stderr.endswith(b"No such file or directory: '/nowhere/x'\n")


@needs_full
def test_a_log_file_on_a_full_disk_is_one_error(tmp_path, capfd):
    log = tmp_path / "run.txt"
    log.symlink_to(FULL)
    set_up_logging(log)
    with pytest.raises(LadonError) as caught:
        logging.getLogger("ladon").info("first")
    assert caught.value.exit_code == 1
    assert str(caught.value).startswith(f"--run_log {log}: cannot be written: No space left on dev")
    logging.getLogger("ladon").error("second: still shown, and no error any more")
    shut_down_logging()
    said = capfd.readouterr().err
    assert "Traceback" not in said
    assert said.count("\n") == 2
