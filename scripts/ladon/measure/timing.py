"""The ways timed on the same images, one image at a time and in turn."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from ladon.benchmark.machine import intraop_threads
from ladon.logs import progress
from ladon.measure.clock import Clock
from ladon.measure.ways import Identity, Way

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sample:
    """One image answered once in one way.

    Attributes:
        way: its name.
        image: number of the image.
        device, server: seconds by stage of the two halves.
        num_bytes: of each message.
    """

    way: str
    image: int
    device: dict[str, float]
    server: dict[str, float]
    num_bytes: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """How it is timed.

    Attributes:
        repeats: of each image and way.
        warm_up: rounds over all ways that don't count.
        device_threads, server_threads: torch's, of each half.
    """

    repeats: int = 1
    warm_up: int = 3
    device_threads: int = 1
    server_threads: int = 1


def run_once(way: Way, image: Image.Image, number: int, plan: Plan) -> Sample:
    """Answer an image once.

    Args:
        way: how.
        image: mode 'RGB'.
        number: of the image.
        plan: says how many threads each half has.
    """
    device, server = Clock(), Clock()
    with intraop_threads(plan.device_threads):
        messages = way.device(image, device)
    with intraop_threads(plan.server_threads):
        way.server(messages, server)
    sizes = tuple(map(len, messages))
    return Sample(way.identity.name, number, device.seconds, server.seconds, sizes)


def time_ways(
    ways: Sequence[Way],
    images: Sequence[Callable[[], Image.Image]],
    plan: Plan,
) -> list[Sample]:
    """Time every way on every image; neighbours in time saw the same machine.

    Args:
        ways: which begin in turn, so that none has always the same before it.
        images: loaders of them, mode 'RGB'.
        plan: how.
    """
    first = images[0]()
    for _ in range(plan.warm_up):
        for way in ways:
            run_once(way, first, 0, plan)
    samples = []
    with progress("Images", len(images) * plan.repeats) as advance:
        for turn in range(plan.repeats * len(images)):
            number = turn % len(images)
            image = images[number]()
            start = turn % len(ways)
            for way in (*ways[start:], *ways[:start]):
                samples.append(run_once(way, image, number, plan))
            advance(1)
    return samples


def identities(ways: Sequence[Way]) -> dict[str, Identity]:
    """Return the ways' identities by their names."""
    return {way.identity.name: way.identity for way in ways}


def spent(seconds: dict[str, float], stages: Any = None) -> float:
    """Return the seconds of some stages, or of all."""
    return sum(s for name, s in seconds.items() if stages is None or name in stages)
