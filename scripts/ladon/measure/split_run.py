"""A measurement of the split from configs to results: models, images, ways, real links."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ladon.benchmark.machine import intraop_threads
from ladon.data.samples import sample_path
from ladon.errors import ConfigError, UsageError
from ladon.images import open_image
from ladon.measure.clock import Clock
from ladon.measure.energy import Rapl
from ladon.measure.labelled import spread
from ladon.measure.links import Link
from ladon.measure.models import Sources
from ladon.measure.real_link import OPENERS
from ladon.measure.results import Measured
from ladon.measure.summary import Summary
from ladon.measure.timing import Plan
from ladon.measure.ways import Way
from ladon.split.answers import Answers
from ladon.split.prediction import PAYLOAD_SUFFIX, find_files

logger = logging.getLogger(__name__)

_MOST_SENDING_S = 20.0  # of one way over one real link


def find_images(given: Sequence[str], sources: Sources, number: int) -> list[Path]:
    """Return the image files to measure with.

    Args:
        given: files and folders; empty: the test set of the three-headed model's config.
        sources: that config.
        number: at most so many, of a test set spread over it.

    Raises:
        UsageError: there is none, or a folder has none.
    """
    if not given:
        return _images_of_config(sources, number)
    found = [file for file in find_files(given) if file.suffix.lower() != PAYLOAD_SUFFIX]
    if not found:
        raise UsageError(f"--images {' '.join(given)}: no image is there, only payloads")
    return found[:number]


def _images_of_config(sources: Sources, number: int) -> list[Path]:
    place = sources.places(sources.three_headed)[0]
    run, _ = sources.open(place)
    dataset_id = run.config.get("test.test_data_loader.dataset_id")
    if dataset_id is None:
        raise ConfigError(f"{place.path}: has no test.test_data_loader: name images with --images")
    dataset = run.build_dataset(dataset_id)
    paths = [sample_path(dataset, index) for index in spread(len(dataset), number)]
    if not paths or None in paths:
        raise UsageError(f"{dataset_id}: does not tell its images' files: name some with --images")
    return [Path(path) for path in paths if path is not None]


def loaders(paths: Sequence[Path]) -> list[Callable[[], Image.Image]]:
    """Return what loads each image."""
    return [lambda path=path: open_image(path) for path in paths]  # type: ignore[misc]


def over_real_links(
    kind: str,
    ways: Sequence[Way],
    images: Sequence[Callable[[], Image.Image]],
    measured: Measured,
    plan: Plan,
) -> list[dict[str, Any]]:
    """Send what the ways send through real links, and compare with the sum of the terms.

    Args:
        kind: 'socket' or 'veth'.
        ways: those that send nothing are left out.
        images: loaders of the first images.
        measured: tells how much each way sends.
        plan: threads of each half.

    Returns:
        Rows of JSON values: link, way, n, the link's own round trip, and end-to-end seconds beside
        the sum of the terms of the same requests.
    """
    rows = []
    for link in measured.links:
        for way in ways:
            name = way.identity.name
            if measured.sends(name):
                expected = link.transmit_seconds(float(measured.num_bytes(name).mean()))
                number = max(1, min(len(images), int(_MOST_SENDING_S / expected)))
                rows.append(_over(kind, link, way, images[:number], plan))
    return rows


def _over(
    kind: str,
    link: Link,
    way: Way,
    images: Sequence[Callable[[], Image.Image]],
    plan: Plan,
) -> dict[str, Any]:
    """Answer images in a way over a real link."""
    server = Clock()

    def serve(parts: list[bytes]) -> bytes:
        with intraop_threads(plan.server_threads):
            return _as_bytes(way.server(parts, server))

    totals, sums = [], []
    with OPENERS[kind](link.bits_per_s, serve) as connection:
        trip = connection.round_trip()
        for load_image in images:
            image, device, before = load_image(), Clock(), sum(server.seconds.values())
            start = time.perf_counter()
            with intraop_threads(plan.device_threads):
                messages = way.device(image, device)
            connection.ask(messages)
            totals.append(time.perf_counter() - start)
            spent = sum(device.seconds.values()) + sum(server.seconds.values()) - before
            sums.append(spent + link.transmit_seconds(sum(map(len, messages))) + trip)
    return {
        "link": link.name,
        "kind": kind,
        "way": way.identity.name,
        "n": len(totals),
        "round_trip_s": trip,
        "measured_s": Summary.of(totals).to_plain(),
        "sum_s": Summary.of(sums).to_plain(),
    }


def _as_bytes(answers: Mapping[str, Any]) -> bytes:
    """Return what the device is told; of an unsplit model, whose answers are tensors, nothing."""
    plain = {head: a.to_plain() for head, a in answers.items() if isinstance(a, Answers)}
    return json.dumps(plain).encode()


def device_joules(
    rapl: Rapl, ways: Sequence[Way], images: Sequence[Callable[[], Image.Image]]
) -> dict[str, float]:
    """Return this machine's joules for the device half of an image, by way."""
    loaded = [load_image() for load_image in images]

    def work(way: Way) -> None:
        for image in loaded:
            way.device(image, Clock())

    return {way.identity.name: rapl.measure(lambda w=way: work(w)) / len(loaded) for way in ways}  # type: ignore[misc]
