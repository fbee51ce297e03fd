"""Timed ways and links put together: latencies by terms, energy, break-even rates, ratios."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from ladon.choices import HEADS
from ladon.measure.energy import Device, Energy, modelled
from ladon.measure.links import Link
from ladon.measure.summary import Summary
from ladon.measure.timing import Sample
from ladon.measure.ways import LADON, SINGLE, Identity

TRANSMIT, ROUND_TRIP = "link: bytes / rate", "link: round trip"
TERMS = {
    "device: networks": ("analysis", "light models"),
    "device: scaling, coding": ("fit", "coding"),
    TRANSMIT: (),
    ROUND_TRIP: (),
    "server: decoding": ("decoding", "synthesis"),
    "server: body": ("body",),
    "server: heads": HEADS,
    "server: unsplit models": ("unsplit",),
}
"""What a latency is the sum of, in its order, and the stages that each consists of."""
NETWORK = ("analysis", "coding", "decoding", "synthesis", "body", *HEADS)
"""Stages of a split model: scaling of images is none."""


@dataclass(frozen=True)
class Interval:
    """Rates between which a way is the fastest.

    Attributes:
        way: its name.
        low, high: bits/s; 0 and infinity at the ends.
    """

    way: str
    low: float
    high: float


@dataclass
class Measured:
    """What was measured, and what follows.

    Attributes:
        ways: by name, in their order.
        samples: of all of them.
        links: those that latencies are of.
        device_factor: how many times slower than this machine the device is.
        power: the device that energy is modelled of.
        real: what went through a real link: rows of JSON values.
        rapl_j: joules that this machine's processor took for a way's device half, by way; empty
            where no meter can be read.
        accuracy: scores by way and task, as `ladon.measure.accuracy` gives them.
    """

    ways: dict[str, Identity]
    samples: list[Sample]
    links: Sequence[Link]
    device_factor: float
    power: Device
    real: list[dict[str, Any]] = field(default_factory=list)
    rapl_j: dict[str, float] = field(default_factory=dict)
    accuracy: list[dict[str, Any]] = field(default_factory=list)

    def of(self, way: str) -> list[Sample]:
        """Return a way's samples."""
        return [sample for sample in self.samples if sample.way == way]

    def device_seconds(self, way: str) -> np.ndarray:
        """Return the seconds [N] of the device's half, slowed down."""
        return self.device_factor * np.array([sum(s.device.values()) for s in self.of(way)])

    def server_seconds(self, way: str) -> np.ndarray:
        """Return the seconds [N] of the server's half."""
        return np.array([sum(s.server.values()) for s in self.of(way)])

    def num_bytes(self, way: str) -> np.ndarray:
        """Return the bytes [N] that are sent."""
        return np.array([sum(s.num_bytes) for s in self.of(way)])

    def sends(self, way: str) -> bool:
        """Whether anything is sent."""
        return bool(self.num_bytes(way).any())

    def latencies(self, way: str, link: Link) -> np.ndarray:
        """Return the seconds [N] from an image to its answers: the sum of all terms."""
        return (
            self.device_seconds(way)
            + link.transmit_seconds(1) * self.num_bytes(way)
            + link.round_trip_s * self.sends(way)
            + self.server_seconds(way)
        )

    def terms(self, way: str, link: Link) -> dict[str, float]:
        """Return the median seconds of each term; their sum is near the median latency."""
        samples, found = self.of(way), {}
        for term, stages in TERMS.items():
            if term == TRANSMIT:
                found[term] = link.transmit_seconds(float(np.median(self.num_bytes(way))))
            elif term == ROUND_TRIP:
                found[term] = link.round_trip_s * self.sends(way)
            else:
                on_device = term.startswith("device")
                parts = [s.device if on_device else s.server for s in samples]
                times = [sum(p.get(stage, 0.0) for stage in stages) for p in parts]
                scale = self.device_factor if on_device else 1.0
                found[term] = scale * float(np.median(times))
        return found

    def energy(self, way: str, link: Link) -> Energy:
        """Return the device's modelled energy for an image, of median times."""
        sent = link.transmit_seconds(float(np.median(self.num_bytes(way))))
        waiting = float(np.median(self.server_seconds(way))) + link.round_trip_s
        compute = float(np.median(self.device_seconds(way)))
        return modelled(
            self.power,
            link.name,
            link.bits_per_s,
            compute,
            sent,
            waiting if self.sends(way) else 0.0,
        )

    def line(self, way: str, round_trip_s: float) -> tuple[float, float]:
        """Return a and b of `latency = a + b / rate`, of medians: seconds, and bits."""
        fixed = float(np.median(self.device_seconds(way) + self.server_seconds(way)))
        bits = 8 * float(np.median(self.num_bytes(way)))
        return fixed + round_trip_s * (bits > 0), bits

    def fastest(self, round_trip_s: float, ways: Sequence[str] | None = None) -> list[Interval]:
        """Return which way is the fastest between which rates, from slow to fast.

        Args:
            round_trip_s: of the link.
            ways: among these; by default all.
        """
        lines = {way: self.line(way, round_trip_s) for way in ways or self.ways}
        crossings = {
            rate
            for one in lines.values()
            for other in lines.values()
            if math.isfinite(rate := crossing(one, other))
        }
        edges = [0.0, *sorted(crossings), math.inf]
        found: list[Interval] = []
        for low, high in pairwise(edges):
            rate = math.sqrt(low * high) if low > 0 and high < math.inf else (low * 2 or high / 2)
            best = min(lines, key=lambda way: lines[way][0] + lines[way][1] / rate)
            if found and found[-1].way == best:
                low = found.pop().low
            found.append(Interval(best, low, high))
        return found

    def break_even(self, one: str, other: str, round_trip_s: float) -> float:
        """Return the rate in bits/s at which two ways take as long; nan if at none."""
        return crossing(self.line(one, round_trip_s), self.line(other, round_trip_s))

    def ratio(self, one: str, other: str) -> dict[str, Summary]:
        """Compare two split ways, image by image: network time, and bytes; one over other."""

        def network(way: str) -> np.ndarray:
            return np.array(
                [sum({**s.device, **s.server}.get(n, 0.0) for n in NETWORK) for s in self.of(way)]
            )

        return {
            "network time": Summary.of(network(one) / network(other)),
            "bytes": Summary.of(self.num_bytes(one) / self.num_bytes(other)),
        }

    def ratios(self) -> list[tuple[str, str, dict[str, Summary]]]:
        """Return Ladon over the single-task split of each β."""
        singles = {i.setting: i.name for i in self.ways.values() if i.kind == SINGLE}
        ladons = [i for i in self.ways.values() if i.kind == LADON and i.setting in singles]
        return [
            (i.name, singles[i.setting], self.ratio(i.name, singles[i.setting])) for i in ladons
        ]


def crossing(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Return the rate at which two lines of `Measured.line` meet, nan if at none above 0."""
    seconds, bits = other[0] - one[0], one[1] - other[1]
    if not seconds or not bits or (seconds > 0) != (bits > 0):
        return math.nan
    return bits / seconds
