"""Checks configuration files without building or running anything, and reports every problem.

    python scripts/validate.py                      # configs/ and legacy/configs/
    python scripts/validate.py my/config.yaml --set train.num_epochs=2
    python scripts/validate.py --build              # also builds each distinct model, weightless

Exit code: 0 all fine, 2 if any file has a problem.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import warnings
from pathlib import Path

from ladon.config import find_config_files, load_config, validate_config
from ladon.config.validate.registries import forget_users
from ladon.errors import ConfigError, LadonError, UsageError
from ladon.flags import add_safe
from ladon.launch import make_parser


def shipped_folders() -> list[str]:
    """Name the folders to check where none are given.

    Raises:
        UsageError: the working directory has none.
    """
    found = [folder for folder in ("configs", "legacy/configs") if Path(folder).is_dir()]
    if not found:
        raise UsageError("name config files or folders: there is no folder configs here")
    return found


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser("validate", __doc__)
    add_safe(parser)
    parser.add_argument("paths", nargs="*", help="files or folders")
    parser.add_argument("--json", help="JSON object merged into every config")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override")
    parser.add_argument("--data_root", help="folder that holds the datasets")
    parser.add_argument(
        "--build",
        action="store_true",
        help="build each distinct model without weights; compare with the published tensors",
    )
    return parser.parse_args(argv)


def validate(args: argparse.Namespace) -> int:
    """Check all files, print all problems; return the exit code."""
    try:
        overrides = json.loads(args.json) if args.json else None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--json is not valid JSON: {error}") from error
    if overrides is not None and not isinstance(overrides, dict):
        raise UsageError("--json must be a JSON object, such as '{\"a\": 1}'")
    paths = args.paths or shipped_folders()
    files = find_config_files(paths)
    if not files:
        raise UsageError(f"no config file in {', '.join(paths)}")
    problems: list[str] = []
    architectures = None
    if args.build:
        from ladon.models.architecture_check import ArchitectureCheck

        architectures = ArchitectureCheck()
    precheck = None
    for file in files:
        forget_users()  # each file's modules are those beside it
        try:
            config = load_config(
                file, overrides=overrides, assignments=args.set, data_root=args.data_root
            )
            found = [str(problem) for problem in validate_config(config)]
            if not found:
                from ladon.engine.precheck import Precheck  # torch is imported by now

                precheck = precheck or Precheck()
                found = precheck.check(config)
            if architectures is not None and not found:
                found = architectures.check(config)
            problems += found
        except ConfigError as error:
            problems.append(str(error))
    for problem in dict.fromkeys(problems):
        print(problem)
    if architectures is not None:
        compared = f"{architectures.compared} of them compared with the published tensors"
        print(f"{architectures.built} distinct models built, {compared}")
    checked = f"{len(files)} file{'s' if len(files) > 1 else ''}"
    if problems:
        print(f"{checked} checked, {len(problems)} problem{'s' if len(problems) > 1 else ''}")
        return UsageError.exit_code
    print(f"{checked} {'are' if len(files) > 1 else 'is'} fine")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run the check; return the exit code."""
    args = parse_args(argv)
    warnings.filterwarnings("ignore", category=FutureWarning)
    collects = gc.isenabled()
    gc.disable()  # it would look through all of torch again and again: a fifth of the time
    try:
        return validate(args)
    except LadonError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    finally:
        if collects:
            gc.enable()
