"""Encodes images and asks a server about them: the device's half, without PyTorch.

    python edge.py --server http://192.168.0.2:8000 photo.jpg photos/
    python edge.py --server URL --camera
    python edge.py --save-payloads sent/ photos/        without a server

A line an image: its payload's bytes, how long encoding and the answer took, and what was found.
A broken image is named, and the others go on.

Exit code: 0 done, 1 the server cannot be reached or refuses, or an image is broken, 2 wrong usage,
130 interrupted.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import os
import re
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from ladon.codec.rates import BudgetError
from ladon.edge.client import Client
from ladon.edge.encoder import EdgeEncoder
from ladon.edge.manifest import MANIFEST
from ladon.edge.pace import Pace
from ladon.edge.pictures import Picture, find_files, of_camera, of_video
from ladon.edge.protocol import HEADS, Response
from ladon.errors import DataError, LadonError, UsageError, cannot_write, report
from ladon.flags import above_zero, add_rate, whole_number
from ladon.images import shown
from ladon.launch import make_parser
from ladon.replacing import own_name, replacing

TOKEN = "LADON_TOKEN"  # nosec B105 # the name of a variable
_ENCODING = ("fit", "analysis", "coding", "writing")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser("edge", __doc__)
    add = parser.add_argument
    add("images", nargs="*", help="image files, or folders of them")
    add("--camera", type=whole_number(0), nargs="?", const=0, metavar="NUMBER", help="a camera's")
    add("--video", metavar="FILE", help="a video's frames")
    add("--frames", type=whole_number(1), help="of a camera or video: no more than so many")
    here = Path(sys.argv[0]).parent
    own = here if (here / MANIFEST).is_file() else None
    add("--model", type=Path, default=own, help="exported folder (default: where edge.py is)")
    add("--threads", type=whole_number(1), help="of the encoder (default: one a core)")
    add("--save-payloads", type=Path, metavar="DIR", help="write each payload as NAME.ladon")
    add("--server", metavar="URL", help="ask this one, e.g. http://127.0.0.1:8000")
    add_rate(parser).add_argument(
        "--deadline-ms",
        type=above_zero,
        metavar="T",
        help="for each answer: the finest rate that the link, as it was so far, lets come in time",
    )
    add("--heads", nargs="+", choices=HEADS, help="answers that are wanted (default: all)")
    add("--token", help=f"what the server wants to be shown (default: {TOKEN} of the environment)")
    add("--ca", type=Path, metavar="FILE", help="PEM of whoever signed the server's certificate")
    add("--retries", type=whole_number(0), default=5, help="attempts after the first (default: 5)")
    add("--timeout", type=whole_number(1), default=30, help="seconds of each wait (default: 30)")
    add("--repeat", type=whole_number(1), default=1, help="times each image, for its median times")
    add("--json", action="store_true", help="a JSON object an image")
    return parser.parse_args(argv)


@dataclass
class _Result:
    """What came of an image.

    Attributes:
        name: of the image.
        stem: of files about it.
        sent: the payload as it is sent, of the last time, as all are alike.
        seconds: of each stage, each time: the encoder's; 'writing', of the payload's bytes; and
            'answer', from sending them to having the answer.
        response: the server's, None without one.
    """

    name: str
    stem: str
    sent: bytes
    seconds: dict[str, list[float]] = field(default_factory=dict)
    response: Response | None = None

    def milliseconds(self, *stages: str) -> float:
        """Return the sum of some stages' medians."""
        return 1e3 * sum(median(self.seconds[stage]) for stage in stages)

    def to_plain(self) -> dict[str, Any]:
        """Return it in JSON's types."""
        plain: dict[str, Any] = {"image": self.name, "payload_bytes": len(self.sent)}
        plain["milliseconds"] = {stage: self.milliseconds(stage) for stage in self.seconds}
        if self.response is not None:
            plain["server_milliseconds"] = {k: 1e3 * v for k, v in self.response.seconds.items()}
            plain["model"] = self.response.model
            plain["answers"] = self.response.answers.to_plain()
        return plain

    def line(self) -> str:
        """Return it as a person reads it."""
        encoded = self.milliseconds(*_ENCODING)
        parts = [f"{self.name}: {len(self.sent):,} bytes, encoded in {encoded:.1f} ms"]
        if self.response is not None:
            parts.append(f"answered in {self.milliseconds('answer'):.1f} ms")
            parts += _found(self.response.answers.to_plain())
        return "; ".join(parts)


def _found(answers: dict[str, Any]) -> list[str]:
    """Return what heads have found in a few words each."""
    said = []
    if classes := answers.get("classification"):
        said.append(f"{_name(classes[0])} {classes[0]['score']:.0%}")
    if "detection" in answers:
        sure = [one for one in answers["detection"] if one["score"] >= 0.5]
        counts = {name: [*map(_name, sure)].count(name) for name in map(_name, sure)}
        listed = ", ".join(f"{n} {name}" for name, n in counts.items()) or "nothing for sure"
        said.append(f"boxes: {listed}")
    if "segmentation" in answers:
        largest = sorted(answers["segmentation"]["classes"], key=lambda one: -one["pixels"])
        said.append(f"pixels: {', '.join(map(_name, largest[:3]))}")
    return said


def _name(found: dict[str, Any]) -> str:
    return found["class"] or f"class {found['label']}"


def _pictures(args: argparse.Namespace) -> Iterable[Picture]:
    sources = [bool(args.images), args.camera is not None, args.video is not None]
    if sum(sources) != 1:
        raise UsageError("name images, or --camera, or --video: one of them")
    if args.images:
        return [(shown(path), path) for path in find_files(args.images)]
    frames = of_camera(args.camera) if args.video is None else of_video(args.video)
    return itertools.islice(frames, args.frames)


def _one(
    picture: Picture,
    args: argparse.Namespace,
    encoder: EdgeEncoder,
    client: Client | None,
    pace: Pace,
) -> _Result:
    """Encode an image and ask about it, as often as is wanted."""
    name, image = picture
    seconds: dict[str, list[float]] = {}

    def on_stage(stage: str, value: float) -> None:
        seconds.setdefault(stage, []).append(value)

    response = None
    for _ in range(args.repeat):
        payload = pace.encode(encoder, image, on_stage)
        start = time.perf_counter()
        sent = payload.to_bytes()
        between = time.perf_counter()
        on_stage("writing", between - start)
        if client is not None:
            response = client.answer(sent, args.heads)
            answered = time.perf_counter() - between
            on_stage("answer", answered)
            pace.note(len(sent), answered, sum(response.seconds.values()))
    stem = name if isinstance(image, np.ndarray) else Path(name).stem
    return _Result(name, stem, sent, seconds, response)


class _Folder:
    """Where payloads are written, by their images' names; None: nowhere."""

    def __init__(self, path: Path | None) -> None:
        self._path, self._names = path, set[str]()
        if path is not None:
            try:
                path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise cannot_write(path, error) from error

    def save(self, result: _Result) -> None:
        """Write a payload; of a name that is taken in this run, with a number."""
        if self._path is None:
            return
        stem = re.sub(r"[^\w.-]+", "-", result.stem) or "image"
        path = self._path / f"{own_name(stem, self._names)}.ladon"
        try:
            with replacing(path) as temporary:
                temporary.write_bytes(result.sent)
        except OSError as error:
            raise cannot_write(path, error) from error


class _Totals:
    """Numbers of all images, for the last line: pictures of a camera may never end."""

    def __init__(self) -> None:
        self._rows: list[tuple[float, ...]] = []

    def add(self, result: _Result) -> None:
        """Take in an image's."""
        row = len(result.sent), result.milliseconds(*_ENCODING)
        answered = () if result.response is None else (result.milliseconds("answer"),)
        self._rows.append((*row, *answered))

    def say(self) -> None:
        """Print medians, where there are several images."""
        if len(self._rows) < 2:
            return
        num_bytes, encoded, *answered = (median(column) for column in zip(*self._rows, strict=True))
        text = f"{num_bytes:,.0f} bytes, encoded in {encoded:.1f} ms"
        if answered:
            text += f", answered in {answered[0]:.1f} ms"
        text = f"{len(self._rows)} images, medians: {text}"
        print(text, file=sys.stderr)


def _work(args: argparse.Namespace) -> int:
    if args.model is None:
        raise UsageError("--model: name a folder that `ladon export edge` wrote")
    pictures = _pictures(args)
    encoder = EdgeEncoder(args.model, threads=args.threads)
    if unknown := set(args.heads or ()) - set(encoder.manifest.heads):
        name = encoder.manifest.name
        raise UsageError(f"--heads {' '.join(sorted(unknown))}: {name} has none such")
    pace = Pace(encoder.manifest, args.rate, args.max_bytes, args.deadline_ms)
    if args.deadline_ms is not None and args.server is None:
        raise UsageError("--deadline-ms: name the --server whose answers are to come in time")
    client = None
    if args.server is not None:
        token = args.token or os.environ.get(TOKEN)
        more = {"retries": args.retries, "timeout": args.timeout, "ca": args.ca}
        client = Client(args.server, token=token, **more)
    folder, totals, broken = _Folder(args.save_payloads), _Totals(), 0
    try:
        for picture in pictures:
            try:
                result = _one(picture, args, encoder, client, pace)
            except DataError as error:
                named = f"{picture[0]}: " if isinstance(error, BudgetError) else ""
                print(f"error: {named}{error}", file=sys.stderr)
                broken += 1
                continue
            folder.save(result)
            print(json.dumps(result.to_plain()) if args.json else result.line(), flush=True)
            totals.add(result)
    finally:  # a camera's pictures are ended by Ctrl-C
        totals.say()
    return LadonError.exit_code if broken else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; return the exit code."""
    args = parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        return _work(args)
    except LadonError as error:
        return report(error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
