"""Command line of the three task scripts: flags, errors in one line, exit codes.

Nothing heavy is imported before the flags are read, so that `--help` and a wrong flag answer at
once and Ctrl-C is quiet from the first moment on.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from ladon.choices import INPUTS, MODES, ON_BAD_SAMPLE, PRECISIONS
from ladon.engine.place import launched_rank
from ladon.errors import DeviceError, LadonError, report
from ladon.flags import above_zero, add_safe, whole_number
from ladon.launch import make_parser
from ladon.process import keep_freed_memory, pin_arithmetic
from ladon.tasks import TASKS, Task, find_task


def build_parser(task: Task, *, legacy: bool = False) -> argparse.ArgumentParser:
    """Return the parser of a task script; single-dash long flags are the published spelling.

    Args:
        task: the task.
        legacy: take the legacy scripts' `--log` for `--run_log`, too.
    """
    parser = make_parser(
        task.name, f"Train and test models for {task.title.lower()}, configured by YAML."
    )
    add = parser.add_argument
    add("--config", required=True, help="YAML file of the experiment")
    log = ("--log", "--run_log") if legacy else ("--run_log",)
    add(
        *log,
        dest="run_log",
        help="log file; the run folder is its name without suffix (default: logs/…)",
    )
    add("--json", type=_json_object, default={}, metavar="OBJECT", help="merged into the config")
    add(
        "--set",
        dest="assignments",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="set one config value, e.g. train.stage1.num_epochs=2 (repeatable)",
    )
    add("--data_root", help="where the datasets are (default: LADON_DATA_ROOT or the config's)")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    add(
        "--seed",
        type=whole_number(0, 2**32 - 1),
        default=0,
        help="all randomness follows from it (default: 0)",
    )
    add(
        "--deterministic",
        action="store_true",
        help="the same run twice on this machine, to the bit; an operator that cannot is refused",
    )
    add_safe(parser)
    add("--start_epoch", type=whole_number(0), default=0, help="first epoch to train (default: 0)")
    add("-test_only", "--test_only", action="store_true", help="only test the checkpoint")
    add("-student_only", "--student_only", action="store_true", help="do not test the teacher")
    add("-no_dp_eval", "--no_dp_eval", action="store_true", help="accepted; no DataParallel here")
    add("-log_config", "--log_config", action="store_true", help="print the resolved config")
    add("--dry_run", action="store_true", help="build all but data and weights, check, stop")
    add(
        "--evaluation",
        choices=MODES,
        help="full: score what was decoded (default); encode: only encode; estimate: no coding",
    )
    add(
        "--precision",
        choices=PRECISIONS,
        help="of decoder, body and heads; payloads don't depend on it (default: float32)",
    )
    add("--input", choices=INPUTS, help="fast: read test images as tensors, not pixel-equal")
    compiled = "torch.compile decoder and body, of a teacher in training, too"
    add(
        "--rate",
        "--rates",
        dest="rates",
        nargs="+",
        type=above_zero,
        metavar="BETA",
        help="β that a variable-rate model is tested at, all in one pass (default: test.rates)",
    )
    add("--compile", action="store_true", default=None, help=compiled)
    add(
        "--world_size",
        type=whole_number(1),
        help="processes (default: as many as torchrun or srun started; 1: srun's tasks are runs of "
        "their own)",
    )
    add("--dist_url", default="env://", help="how processes find each other (default: env://)")
    add("-adjust_lr", "--adjust_lr", action="store_true", help="multiply lr by the processes")
    add("--resume", action="store_true", help="go on from the run folder's last.pt, if it is there")
    add(
        "--overwrite",
        action="store_true",
        help="replace an earlier run's best checkpoint instead of keeping it as *.previous.pt",
    )
    add(
        "--predictions",
        metavar="FILE",
        help="write what the final test finds, a JSON line an image",
    )
    add(
        "--analyse",
        nargs="?",
        const="",
        metavar="FOLDER",
        help="write what the final test finds of each class, the confusion, and the worst images "
        "as pictures (folder: the run's own analysis)",
    )
    add(
        "--on_bad_sample",
        choices=ON_BAD_SAMPLE,
        help="a training sample that cannot be loaded ends the run, or is listed and replaced by "
        "another one (default: error)",
    )
    add("--tensorboard", action="store_true", help="write TensorBoard events to the run folder")
    for name, where in (("wandb", "project"), ("mlflow", "experiment")):
        add(
            f"--{name}",
            nargs="?",
            const="ladon",
            metavar=where.upper(),
            help=f"log to {name}, whose package and settings are yours ({where}: ladon)",
        )
    task.add_flags(parser)
    return parser


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise argparse.ArgumentTypeError("nested too deeply") from error
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("must be a JSON object, like '{\"beta\": 0.64}'")
    return value


def main(task: str, argv: Sequence[str] | None = None, *, legacy: bool = False) -> int:
    """Run a task script.

    Args:
        task: name of the task; one of a user's own is registered by a module that the config names
            under `dependencies`.
        argv: arguments; the process's own if None.
        legacy: take the legacy scripts' flags.

    Returns:
        Exit code: 0 done, 1 failed work, 2 wrong usage or input, 130/138/143 interrupted.
    """

    def work() -> int:
        chosen = _registered(task, argv)
        args = build_parser(chosen, legacy=legacy).parse_args(argv)
        prepare_process(args.world_size, deterministic=args.deterministic)
        from ladon.app import run_task

        run_task(chosen, args)
        return 0

    return answer(work)


def _registered(task: str, argv: Sequence[str] | None) -> Task:
    """Return a task, after its config's modules have registered theirs if it is not known."""
    if task not in TASKS:
        early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        early.add_argument("--config")
        add_safe(early)
        config = early.parse_known_args(argv)[0].config
        if config is not None:
            from ladon.config import load_config

            prepare_process()
            load_config(config).import_dependencies()
    return find_task(task)


def prepare_process(world_size: int | None = None, *, deterministic: bool = False) -> None:
    """Say what must be said before torch and its friends are imported.

    Args:
        world_size: the `--world_size` argument.
        deterministic: the `--deterministic` argument.
    """
    keep_freed_memory()
    if deterministic:
        pin_arithmetic()
    if launched_rank(world_size):  # the first process warns for all
        warnings.filterwarnings("ignore")
        logging.getLogger().setLevel(logging.ERROR)
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    # what libraries tell their developers while they are imported
    for category in (FutureWarning, DeprecationWarning):
        warnings.filterwarnings("ignore", category=category)


def answer(work: Callable[[], int]) -> int:
    """Works; returns the exit code, what is raised becomes one line that a person reads."""
    try:
        return work()
    except LadonError as error:
        code = report(error)
        if isinstance(error, DeviceError):
            _leave_at_once(code)
        return code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    finally:
        if logs := sys.modules.get("ladon.logs"):
            logs.shut_down_logging()


def _leave_at_once(code: int) -> NoReturn:
    """End the process without cleaning up.

    Whatever is let go of on a failed GPU would abort the process, with a page of its own words
    below the line that says what was wrong.
    """
    if logs := sys.modules.get("ladon.logs"):
        logs.shut_down_logging()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
