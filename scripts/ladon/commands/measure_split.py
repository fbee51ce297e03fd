r"""Which way of sharing the work between a device and a server is the fastest, over which link.

    python scripts/measure_split.py --images photos/ \
        --config 'configs/digit_scenes/ladon-runtime/…-beta{beta}_classification.yaml' \
        --single 'configs/digit_scenes/ladon/splittable_resnet18-fp-beta{beta}_….yaml' \
                 'configs/digit_scenes/ladon/faster_rcnn_…-beta{beta}_fpn.yaml' \
                 'configs/digit_scenes/ladon/deeplabv3_…-beta{beta}.yaml' --betas 0.32 5.12

On the same images: (a) a lightweight model for each task on the device (random weights: timed
only), (b) JPEG and WebP to the server, where unsplit models run (the teachers of --single; a model
without one runs whole), (c) three split models with a payload each (--single), (d) Ladon, one
payload.
Times are measured here, one image at a time; the link's are arithmetic, bytes / rate + round trip,
unless --link sends them: `socket` through a paced socket, `veth` through a rate-limited virtual
device between two network namespaces (root only). --device-factor slows the device's half down.
Energy is modelled from stated powers (--power); where this machine has a meter (RAPL) that may be
read, the device's half is measured with it, too.

Prints tables and writes split.json, split.csv, split.md and plots below --out. With --accuracy also
the scores of every way on the images that all three test sets hold, and a run folder for each,
which `report` shows: python scripts/report.py OUT/runs
Exit code: 0 done, 1 failed, 2 wrong usage or input.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ladon.cli import answer, prepare_process
from ladon.flags import add_safe, whole_number
from ladon.launch import make_parser, own_command

if TYPE_CHECKING:
    from ladon.measure.models import Models, Sources
    from ladon.measure.results import Measured
    from ladon.measure.timing import Plan
    from ladon.report.render import Table

OUT = Path("logs/measure_split")
QUALITIES = [10, 30, 50, 75, 95]
_LINK_KINDS = ("model", "socket", "veth")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser("measure_split", __doc__)
    add_safe(parser)
    add = parser.add_argument
    add("--config", required=True, help="of the three-headed model; {beta} stands for β's text")
    add("--single", nargs=3, default=[], metavar="CONFIG", help="of the single-task split models")
    betas = "of models for every rate, the rates (default: the configs' own)"
    add("--betas", nargs="+", default=[], metavar="BETA", help=betas)
    add("--images", nargs="+", default=[], metavar="PATH", help="(default: the config's test set)")
    add("--num-images", type=whole_number(1), default=30, help="at most (default: 30)")
    add("--data_root", help="where the datasets are (default: LADON_DATA_ROOT or the config's)")
    add("--jpeg", nargs="*", type=int, default=QUALITIES, metavar="Q", help="qualities of JPEG")
    add("--webp", nargs="*", type=int, default=QUALITIES, metavar="Q", help="qualities of WebP")
    add("--repeats", type=whole_number(1), default=1, help="of each image and way (default: 1)")
    add("--warm-up", type=whole_number(0), default=3, help="rounds that don't count (default: 3)")
    add("--device-threads", type=whole_number(1), default=1, help="of the device (default: 1)")
    add("--server-threads", type=whole_number(1), help="of the server (default: all)")
    add("--device-factor", type=float, default=1.0, help="how much slower than this the device is")
    links = "NAME=KBIT/S:ROUND_TRIP_MS, or a known name (default: LoRa, 3G, LTE, Wi-Fi)"
    add("--links", nargs="+", metavar="LINK", help=links)
    add("--link", choices=_LINK_KINDS, default="model", help="send over a real link, too")
    add("--link-images", type=whole_number(1), default=5, help="over it at most (default: 5)")
    add("--power", default="raspberry_pi_4", help="device that energy is modelled of")
    add("--accuracy", action="store_true", help="score the ways, and run the tasks' own tests")
    add("--accuracy-images", type=whole_number(1), help="at most (default: all)")
    add("--out", type=Path, default=OUT, help=f"folder of the files (default: {OUT})")
    args = parser.parse_args(argv)
    if not 0 < args.device_factor < float("inf"):
        parser.error("--device-factor must be above 0")
    if args.accuracy and not args.single:
        parser.error("--accuracy: the tasks' data are those of --single: name three configs")
    return args


def main(argv: list[str] | None = None) -> int:
    """Measure; return the exit code."""
    args = parse_args(argv)
    prepare_process()
    return answer(lambda: measure_split(args))


def measure_split(args: argparse.Namespace) -> int:
    """Measure what the command line asks for, print it and write it."""
    from ladon.logs import set_up_logging
    from ladon.measure.energy import Rapl, find_device
    from ladon.measure.links import LINKS, read_link
    from ladon.measure.models import Models, Sources
    from ladon.measure.real_link import check_veth
    from ladon.measure.results import Measured
    from ladon.measure.split_run import (
        device_joules,
        find_images,
        loaders,
        over_real_links,
    )
    from ladon.measure.tables import accuracy_table
    from ladon.measure.timing import Plan, identities, time_ways

    if args.link == "veth":
        check_veth()
    links = [read_link(text) for text in args.links] if args.links else list(LINKS)
    power, codecs = find_device(args.power), _codecs(args)
    set_up_logging()
    sources = Sources(args.config, tuple(args.single), tuple(args.betas), args.data_root)
    images = loaders(find_images(args.images, sources, args.num_images))
    threads = args.server_threads or len(os.sched_getaffinity(0))
    plan = Plan(args.repeats, args.warm_up, args.device_threads, threads)
    start = time.perf_counter()
    with Models(sources) as models:
        ways = models.ways(codecs)
        samples = time_ways(ways, images, plan)
        measured = Measured(identities(ways), samples, links, args.device_factor, power)
        if args.link != "model":
            few = images[: args.link_images]
            measured.real = over_real_links(args.link, ways, few, measured, plan)
        rapl = Rapl.open()
        if rapl is not None:
            measured.rapl_j = device_joules(rapl, ways, images)
        unsplit = {head: model.name for head, model in models.unsplit.items()}
        about = _about(args, plan, len(images), unsplit, time.perf_counter() - start)
        about["on_server"] = on_server = models.on_server()
        # before the scores, which take their time
        files = _write(args.out, measured, about)
        _show(_tables(measured))
        for kind, held in on_server.items():
            size = f"{held['bytes'] / 2**20:.1f} MiB"
            print(f"{kind}: a server holds {size} of weights, models: {held['models']}")
        if args.accuracy:
            measured.accuracy = _accuracy(args, models, sources, codecs)
            files = _write(args.out, measured, about)
            _show([accuracy_table(measured.accuracy)])
    print(f"written: {', '.join(map(str, files))}")
    return 0


def _codecs(args: argparse.Namespace) -> list[Any]:
    from ladon.measure.codecs import PictureCodec

    qualities = {"JPEG": args.jpeg, "WebP": args.webp}
    return [PictureCodec(name, q) for name, of_name in qualities.items() for q in sorted(of_name)]


def _accuracy(
    args: argparse.Namespace, models: Models, sources: Sources, codecs: list[Any]
) -> list[dict[str, Any]]:
    """Score the ways, run the tasks' own tests, and write runs that `report` reads."""
    from ladon.measure.accuracy import score_ways, write_runs
    from ladon.measure.codecs import PictureCodec
    from ladon.measure.protocol import run_tests

    sets = models.labelled(sources)
    ways = models.ways([PictureCodec("PNG"), *codecs], on_device=False)
    scores = score_ways(ways, sets, models.first.fitting, args.accuracy_images)
    before = {head: model.name for head, model in models.unsplit.items()}
    runs = args.out / "runs"
    write_runs(scores, runs, models.backbone, before)
    return [score.to_plain() for score in scores] + run_tests(sources, runs)


def _about(
    args: argparse.Namespace, plan: Plan, images: int, unsplit: dict[str, str], seconds: float
) -> dict[str, Any]:
    from dataclasses import asdict

    import torch

    from ladon.benchmark.machine import describe_machine
    from ladon.measure.ways import LIGHT

    return {
        "command": own_command(),
        "date": time.strftime("%Y-%m-%d %H:%M:%S"),
        "seconds": round(seconds, 1),
        "machine": describe_machine(torch.device("cpu")),
        "images": images,
        "plan": asdict(plan),
        "device_factor": args.device_factor,
        "unsplit": unsplit,
        "on_device": {head: f"{make.__name__}, random weights" for head, make in LIGHT.items()},
    }


def _tables(measured: Measured) -> list[Table]:
    from ladon.measure import tables

    shown = [*tables.latency_tables(measured), tables.break_even_table(measured)]
    return shown + [t for t in (tables.ratio_table(measured), tables.real_table(measured)) if t]


def _show(shown: list[Table]) -> None:
    from ladon.report.render import show_table
    from ladon.report.tables import make_console

    console = make_console()
    for table in shown:
        show_table(console, table)


def _write(out: Path, measured: Measured, about: dict[str, Any]) -> list[Path]:
    """Write all files, over those of an earlier measurement; return them."""
    from ladon.measure import figures, tables
    from ladon.replacing import write_json
    from ladon.report.files import write_files
    from ladon.report.render import csv_text

    shown = _tables(measured)
    if measured.accuracy:
        shown.append(tables.accuracy_table(measured.accuracy))
    texts = {out / "split.csv": csv_text(tables.CSV_COLUMNS, tables.rows(measured))}
    files = write_files(texts, shown, out / "split")
    for name, figure in {
        "latency": figures.latency_figure(measured),
        "rates": figures.rate_figure(measured),
        "energy": figures.energy_figure(measured),
        "accuracy": figures.accuracy_figure(measured),
    }.items():
        if figure is not None:
            plots = [out / f"{name}.png", out / f"{name}.svg"]
            figures.save_all(figure, plots)
            files += plots
    write_json(out / "split.json", tables.to_plain(measured, about))
    return [*files, out / "split.json"]
