"""The demo's models, split for real: a device's half without PyTorch, a server, bytes between them.

    make demo-split    # after make demo; or, from the checkout's root: python scripts/demo_split.py

Exports the edge package, makes an environment for it that has no PyTorch, starts a server, streams
100 scenes from the device's half in another process, compares every answer with what the server
half gives in this process for the same payload, saves the pictures, and measures which way of
sharing the work is the fastest over which link. Everything goes to logs/digit_scenes/split.

Exit code: 0 done, 1 something failed or an answer differs, 2 the demo's models are not there.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from ladon import demo_split
from ladon.cli import answer, prepare_process
from ladon.commands.demo import BETAS, CONFIGS, make_jobs, say
from ladon.errors import LadonError, UsageError
from ladon.flags import whole_number
from ladon.launch import child_command, make_parser

BETA = BETAS[0]
OUT = Path("logs/digit_scenes/split")


def runtime_config(beta: str) -> Path:
    """Return the config of the three heads on one body."""
    return CONFIGS / f"ladon-runtime/ladon-splittable_resnet18-fp-beta{beta}_detection.yaml"


def check_models(data_root: str) -> None:
    """See that the demo has been run.

    Raises:
        UsageError: a model is missing.
    """
    if not CONFIGS.is_dir():
        raise UsageError(f"{CONFIGS}: no such folder: run this in a checkout's root")
    for job in make_jobs(data_root):
        path = job.checkpoint
        if not path.is_file():
            raise UsageError(f"{path}: no such file: the demo trains it: run make demo first")


def measure_command(images: Sequence[Path]) -> list[str]:
    """Return the command line that measures the split of the demo's models."""
    singles = (
        "splittable_resnet18-fp-beta{beta}_from_resnet18",
        "faster_rcnn_splittable_resnet18-fp-beta{beta}_fpn",
        "deeplabv3_splittable_resnet18-fp-beta{beta}",
    )
    return [
        *child_command("measure_split"),
        "--config",
        str(runtime_config("{beta}")),
        "--single",
        *(str(CONFIGS / f"ladon/{name}.yaml") for name in singles),
        "--betas",
        *BETAS,
        "--images",
        *map(str, images),
        "--out",
        str(OUT / "measured"),
    ]


def run(num_scenes: int, data_root: str) -> None:
    """Do all steps.

    Raises:
        LadonError: one failed.
    """
    check_models(data_root)
    images = demo_split.first_images(Path(data_root) / "digit_scenes/val", num_scenes)
    edge, config = OUT / "edge", runtime_config(BETA)
    OUT.mkdir(parents=True, exist_ok=True)
    say(f"[1/5] the edge package of β {BETA}: {edge}")
    shutil.rmtree(edge, ignore_errors=True)
    demo_split.run([*child_command("export"), "edge", "--config", str(config), "--out", str(edge)])
    say(f"[2/5] the device's environment, without PyTorch: {OUT / 'device'}")
    python = demo_split.make_device(OUT / "device", edge / "requirements.txt")
    say(f"[3/5] a server of {len(BETAS)} models; {num_scenes} scenes from the device's half")
    with demo_split.server([runtime_config(beta) for beta in BETAS], OUT / "server.log") as url:
        rows = demo_split.ask(python, edge, url, images, OUT / "sent")
    say(f"[4/5] the same payloads answered in this process; pictures: {OUT / 'pictures'}")
    compared = demo_split.compare(config, rows, OUT / "sent", OUT / "pictures")
    say(f"      {compared.num_equal} of {len(images)} answers are equal to the last digit")
    if compared.num_equal != len(images):
        raise LadonError(f"answers differ: {', '.join(compared.different[:5])} …")
    say("[5/5] which way of sharing the work is the fastest, over which link")
    demo_split.run(measure_command(images[:30]))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; return the exit code."""
    parser = make_parser("demo_split", __doc__)
    add = parser.add_argument
    add("--scenes", type=whole_number(1), default=100, help="to stream (default: %(default)s)")
    add("--data_root", default="resource/data", help="the demo's (default: %(default)s)")
    args = parser.parse_args(argv)
    start = time.monotonic()

    def work() -> int:
        prepare_process()
        run(args.scenes, args.data_root)
        say(f"done in {(time.monotonic() - start) / 60:.1f} minutes: {OUT}")
        return 0

    return answer(work)
