"""The tables and the CSV file of a measured split; `to_plain` is its JSON file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from ladon.measure.energy import MEASURED, MODELLED, Energy
from ladon.measure.links import Link
from ladon.measure.results import TERMS, Measured
from ladon.measure.summary import Summary
from ladon.measure.ways import LADON
from ladon.report.render import MISSING, Column, Table, number

FORMAT = 1


@dataclass(frozen=True)
class Row:
    """A way over a link."""

    way: str
    kind: str
    setting: float | None
    link: Link
    num_bytes: Summary
    terms: dict[str, float]
    latency: Summary
    energy: Energy


def rows(measured: Measured) -> list[Row]:
    """Return a row for each link and way."""
    return [
        Row(
            name,
            way.kind,
            way.setting,
            link,
            Summary.of(measured.num_bytes(name)),
            measured.terms(name, link),
            Summary.of(measured.latencies(name, link)),
            measured.energy(name, link),
        )
        for link in measured.links
        for name, way in measured.ways.items()
    ]


def _ms(seconds: float) -> str:
    """Return milliseconds with three significant digits."""
    return f"{1000 * seconds:.3g}" if seconds < 1 else f"{1000 * seconds:.0f}"


def _joules(value: float | None) -> str:
    return MISSING if value is None else f"{1000 * value:.3g}"


def _term(name: str, row: Row) -> float:
    return row.terms[name]


CSV_COLUMNS = (
    Column("way", lambda r: r.way),
    Column("kind", lambda r: r.kind),
    Column("setting", lambda r: r.setting),
    Column("link", lambda r: r.link.name),
    Column("bits_per_s", lambda r: r.link.bits_per_s),
    Column("round_trip_s", lambda r: r.link.round_trip_s),
    Column("n", lambda r: r.latency.n),
    Column("bytes_median", lambda r: r.num_bytes.median),
    *(Column(f"{term} [s]", partial(_term, term)) for term in TERMS),
    Column("latency_median [s]", lambda r: r.latency.median),
    Column("latency_low [s]", lambda r: r.latency.low),
    Column("latency_high [s]", lambda r: r.latency.high),
    *(
        Column(f"latency_p{p} [s]", lambda r, p=p: r.latency.percentiles[p])  # type: ignore[misc]
        for p in (5, 25, 75, 90, 95, 99)
    ),
    Column("energy", lambda r: MODELLED),
    Column("compute [J]", lambda r: r.energy.compute_j),
    Column("transmit [J]", lambda r: r.energy.transmit_j),
    Column("waiting [J]", lambda r: r.energy.waiting_j),
)

_COLUMNS = [
    Column("way", lambda r: r.way, None, lambda r: r.way, left=True),
    Column("bytes", lambda r: r, None, lambda r: number(r.num_bytes.median, 0)),
    *(
        Column(shown, lambda r: r, None, lambda r, t=terms: _ms(sum(r.terms[x] for x in t)))  # type: ignore[misc]
        for shown, terms in (
            ("device", ("device: networks", "device: scaling, coding")),
            ("link", ("link: bytes / rate", "link: round trip")),
            ("server", tuple(term for term in TERMS if term.startswith("server"))),
        )
    ),
    Column("latency", lambda r: r, None, lambda r: _ms(r.latency.median)),
    Column("95 % of it", lambda r: r, None, lambda r: _interval(r.latency)),
    Column("p95", lambda r: r, None, lambda r: _ms(r.latency.percentiles[95])),
    Column("mJ", lambda r: r, None, lambda r: _joules(r.energy.total_j)),
]


def _interval(found: Summary) -> str:
    return f"{_ms(found.low)}–{_ms(found.high)}"


def latency_tables(measured: Measured) -> Iterator[Table]:
    """Return a table of all ways for each link."""
    all_rows = rows(measured)
    waiting = "" if measured.power.idle_w is not None else "; waiting costs it nothing here"
    caption = (
        f"ms, medians of {all_rows[0].latency.n} images one at a time; 95 % interval of the "
        f"median; mJ of the device {MODELLED} ({measured.power.name}){waiting}"
    )
    for link in measured.links:
        title = (
            f"{link.name}: {link.bits_per_s / 1000:g} kbit/s, round trip "
            f"{1000 * link.round_trip_s:g} ms"
        )
        of_link = [row for row in all_rows if row.link is link]
        yield Table(title, None, _COLUMNS, of_link, caption)


def break_even_table(measured: Measured) -> Table:
    """Return the way that is the fastest between which rates, and where each meets Ladon."""
    trip = round_trip_of(measured)
    columns = [
        Column("from", lambda r: r, None, lambda r: rate_text(r.low)),
        Column("to", lambda r: r, None, lambda r: rate_text(r.high)),
        Column("fastest", lambda r: r, None, lambda r: r.way, left=True),
    ]
    return Table(
        f"Break-even rates, at a round trip of {1000 * trip:g} ms",
        None,
        columns,
        measured.fastest(trip),
        "of median latencies; accuracy is not looked at",
    )


def round_trip_of(measured: Measured) -> float:
    """Return the round trip that break-even rates are of: the middle one of the links."""
    trips = sorted(link.round_trip_s for link in measured.links)
    return trips[len(trips) // 2]


def rate_text(bits_per_s: float) -> str:
    """Return a rate with its unit; 0 and infinity are none."""
    if not 0 < bits_per_s < math.inf:
        return MISSING
    factor, unit = (1e6, "Mbit/s") if bits_per_s >= 1e6 else (1e3, "kbit/s")
    return f"{bits_per_s / factor:.3g} {unit}"


def ratio_table(measured: Measured) -> Table | None:
    """Return Ladon beside the three single-task split models, None where these are missing."""
    found = [
        (ladon, what, summary)
        for ladon, _, ratios in measured.ratios()
        for what, summary in ratios.items()
    ]
    columns = [
        Column("way", lambda r: r, None, lambda r: r[0], left=True),
        Column("over three single-task splits", lambda r: r, None, lambda r: r[1], left=True),
        Column("median", lambda r: r, None, lambda r: number(r[2].median, 3)),
        Column("95 % of it", lambda r: r, None, lambda r: f"{r[2].low:.3f}–{r[2].high:.3f}"),
        Column("p5–p95", lambda r: r, None, _spread),
    ]
    title = "One payload, three heads: image by image, both in the same run"
    return Table(title, None, columns, found) if found else None


def _spread(row: tuple[str, str, Summary]) -> str:
    percentiles = row[2].percentiles
    return f"{percentiles[5]:.3f}–{percentiles[95]:.3f}"


def real_table(measured: Measured) -> Table | None:
    """Return what went through a real link beside the sum of the terms."""
    columns = [
        Column("link", lambda r: r, None, lambda r: r["link"], left=True),
        Column("way", lambda r: r, None, lambda r: r["way"], left=True),
        Column("end to end [ms]", lambda r: r, None, lambda r: _ms(r["measured_s"]["median"])),
        Column("sum of terms [ms]", lambda r: r, None, lambda r: _ms(r["sum_s"]["median"])),
        Column("ratio", lambda r: r, None, lambda r: number(_over(r), 3)),
    ]
    title = "Through a real link, the device at this machine's speed"
    return Table(title, None, columns, measured.real) if measured.real else None


def _over(row: dict[str, Any]) -> float:
    return row["measured_s"]["median"] / row["sum_s"]["median"]


def accuracy_table(found: Sequence[dict[str, Any]]) -> Table:
    """Return scores by way and task.

    Args:
        found: from `ladon.measure.accuracy`.
    """
    columns = [
        Column("way", lambda r: r, None, lambda r: r["way"], left=True),
        Column("task", lambda r: r, None, lambda r: r["task"], left=True),
        Column("score", lambda r: r, None, lambda r: r["label"], left=True),
        Column("value", lambda r: r, None, lambda r: number(r["value"], r["digits"])),
        Column("bytes", lambda r: r, None, lambda r: number(r["mean_bytes"], 1)),
        Column("n", lambda r: r, None, lambda r: str(r["n"])),
    ]
    return Table("Accuracy", None, columns, list(found))


def to_plain(measured: Measured, about: dict[str, Any]) -> dict[str, Any]:
    """Return everything in JSON's types.

    Args:
        measured: what was measured.
        about: settings and machine.
    """
    trip = round_trip_of(measured)
    ladons = [name for name, way in measured.ways.items() if way.kind == LADON]
    return {
        "format": FORMAT,
        **about,
        "power": asdict(measured.power),
        "links": [asdict(link) for link in measured.links],
        "ways": [_way_plain(measured, name) for name in measured.ways],
        "ladon_over_single": [
            {"ladon": one, "single": other, **{k: s.to_plain() for k, s in found.items()}}
            for one, other, found in measured.ratios()
        ],
        "break_even": {
            "round_trip_s": trip,
            "fastest": [
                {"way": i.way, "from_bits_per_s": i.low, "to_bits_per_s": _finite(i.high)}
                for i in measured.fastest(trip)
            ],
            "against": {
                ladon: {
                    other: _finite(measured.break_even(ladon, other, trip))
                    for other in measured.ways
                    if other != ladon
                }
                for ladon in ladons
            },
        },
        "real_link": measured.real,
        "accuracy": measured.accuracy,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _way_plain(measured: Measured, name: str) -> dict[str, Any]:
    samples = measured.of(name)
    found: dict[str, Any] = {
        **asdict(measured.ways[name]),
        "num_bytes": Summary.of(measured.num_bytes(name)).to_plain(),
        "messages": len(samples[0].num_bytes),
        "stages": {
            half: {
                stage: Summary.of([getattr(s, half).get(stage, 0.0) for s in samples]).to_plain()
                for stage in getattr(samples[0], half)
            }
            for half in ("device", "server")
        },
        "links": {
            link.name: {
                "latency_s": Summary.of(measured.latencies(name, link)).to_plain(),
                "terms_s": measured.terms(name, link),
                "energy_j": {"how": MODELLED, **asdict(measured.energy(name, link))},
            }
            for link in measured.links
        },
    }
    if name in measured.rapl_j:
        found["device_half_j"] = {"how": MEASURED, "joules": measured.rapl_j[name]}
    return found
