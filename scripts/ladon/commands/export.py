"""Writes a model's device half for where neither this library nor PyTorch is.

    python scripts/export.py edge --config configs/….yaml --out edge/
    python scripts/export.py edge --config FILE --out edge8/ --int8 --calibrate photos/

The folder holds the encoder (ONNX), its tables, the coder and edge.py: on the device,
`pip install -r requirements.txt` and `python edge.py --server URL photo.jpg`.

Exit code: 0 done, 1 failed work, 2 wrong usage or input.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ladon.cli import answer, prepare_process
from ladon.errors import UsageError
from ladon.flags import add_safe, whole_number
from ladon.launch import make_parser


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser("export", __doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    edge = commands.add_parser("edge", help="the folder for a device")
    add = edge.add_argument
    add_safe(edge)
    add("--config", required=True, help="YAML file of the model, or a checkpoint that names it")
    add("--out", required=True, type=Path, help="folder to write, not there yet")
    add(
        "--set",
        dest="assignments",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="set one config value (repeatable)",
    )
    add("--int8", action="store_true", help="quantise the encoder: a quarter of its size")
    add("--calibrate", metavar="FOLDER", help="usual images, which --int8 needs")
    add(
        "--images",
        type=whole_number(1),
        default=100,
        help="of those, no more than so many (default: 100)",
    )
    add("--licence", default="not stated", help="of the weights, as model.json is to say")
    add("--origin", help="of the weights: where they come from, likewise")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Load the model, write the folder, say what is in it."""
    if args.int8 != (args.calibrate is not None):
        raise UsageError("--int8 and --calibrate FOLDER belong together")
    if args.out.exists():  # before a model is loaded for nothing
        raise UsageError(f"{args.out} is there already: name a new folder")
    import ladon
    from ladon.edge.pictures import find_files
    from ladon.export.edge import export_edge

    calibration = None
    if args.calibrate is not None:
        calibration = find_files([args.calibrate])[: args.images]
    origin = {"config": Path(args.config).name}
    if args.origin is not None:
        origin["stated"] = args.origin
    with ladon.load(args.config, assignments=args.assignments) as model:
        done = export_edge(
            model, args.out, origin=origin, licence=args.licence, calibration=calibration
        )
    made, size = done.manifest, sum(done.sizes.values())
    heads = ", ".join(made.heads)
    print(f"{done.folder}: {made.name}, encoder {made.encoder_id.hex()} for {heads}")
    print(
        f"encoder ({made.precision}, opset {made.opset}) and tables {size / 1e6:.2f} MB; latents "
        f"within {done.largest_error:.1g} of PyTorch's, before any quantisation"
    )
    for line in done.missing:
        print(line)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; return the exit code."""

    def work() -> int:
        args = parse_args(argv)
        prepare_process()
        run(args)
        return 0

    return answer(work)
