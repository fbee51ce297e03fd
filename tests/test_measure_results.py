"""What follows from timed ways: latencies, break-even rates, ratios, tables and pictures."""

from __future__ import annotations

import csv
import io
import json
import math

import pytest

from ladon.measure import figures, tables
from ladon.measure.energy import find_device
from ladon.measure.links import LINKS, Link
from ladon.measure.results import TERMS, Interval, Measured, crossing
from ladon.measure.timing import Sample
from ladon.measure.ways import LADON, ON_DEVICE, PICTURE, SINGLE, Identity
from ladon.report.plots import save_figure
from ladon.report.render import csv_text, markdown_table

TEN_KBIT = Link("slow", 10_000, 0.1)


@pytest.fixture
def measured() -> Measured:
    """Seconds that can be added up in the head; two images each."""
    ways = [
        Identity(ON_DEVICE, "on device"),
        Identity(PICTURE, "JPEG q50", 50, "JPEG"),
        Identity(SINGLE, "single β 1", 1.0, SINGLE),
        Identity(LADON, "Ladon β 1", 1.0, LADON),
    ]
    one = {"classification": 0.01, "detection": 0.04, "segmentation": 0.02}
    samples = []
    for image, extra in enumerate((0.0, 0.002)):

        def add(way, device, server, sizes, image=image, extra=extra):
            device = {**device, "fit": 0.001 + extra}
            samples.append(Sample(way, image, device, server, sizes))

        add("on device", {"light models": 0.499}, {}, ())
        add("JPEG q50", {"coding": 0.004}, {"decoding": 0.005, "unsplit": 0.19}, (2500,))
        add(
            "single β 1",
            {"analysis": 0.03, "coding": 0.003},
            {"decoding": 0.003, "synthesis": 0.004, "body": 0.09, **one},
            (500, 500, 500),
        )
        add(
            "Ladon β 1",
            {"analysis": 0.01, "coding": 0.001},
            {"decoding": 0.001, "synthesis": 0.002, "body": 0.03, **one},
            (500,),
        )
    return Measured(
        {way.name: way for way in ways},
        samples,
        [TEN_KBIT, LINKS[2]],
        2.0,
        find_device("raspberry_pi_4"),
    )


def test_a_latency_is_the_sum_of_its_terms(measured):
    # twice the device's 0.012 and 0.014; 500 bytes at 10 kbit/s; 0.1; the server's 0.103
    expected = [2 * 0.012 + 0.4 + 0.1 + 0.103, 2 * 0.014 + 0.4 + 0.1 + 0.103]
    assert measured.latencies("Ladon β 1", TEN_KBIT).tolist() == pytest.approx(expected)
    terms = measured.terms("Ladon β 1", TEN_KBIT)
    assert list(terms) == list(TERMS)
    assert sum(terms.values()) == pytest.approx(sum(expected) / 2)
    assert terms["server: heads"] == pytest.approx(0.07)
    assert terms["device: networks"] == pytest.approx(0.02)


def test_what_stays_on_the_device_needs_no_link(measured):
    assert not measured.sends("on device")
    assert measured.latencies("on device", TEN_KBIT)[0] == pytest.approx(2 * 0.5)
    energy = measured.energy("on device", TEN_KBIT)
    assert (energy.transmit_j, energy.waiting_j) == (0, 0)


def test_break_even_rates_are_where_two_lines_meet(measured):
    # at a round trip of 0.1: 1.002 s on the device; 0.229 s and 4,000 bits for Ladon
    assert measured.break_even("Ladon β 1", "on device", 0.1) == pytest.approx(
        4000 / (1.002 - 0.229)
    )
    found = measured.fastest(0.1)
    assert [interval.way for interval in found] == ["on device", "Ladon β 1"]
    assert found[0] == Interval("on device", 0.0, found[1].low)
    assert found[1].low == pytest.approx(4000 / (1.002 - 0.229))
    assert found[1].high == math.inf


@pytest.mark.parametrize(
    ("one", "other", "rate"),
    [
        ((1.0, 100.0), (2.0, 50.0), 50.0),
        ((2.0, 50.0), (1.0, 100.0), 50.0),
        ((1.0, 50.0), (2.0, 100.0), math.nan),  # better at every rate
        ((1.0, 50.0), (1.0, 100.0), math.nan),
        ((1.0, 50.0), (2.0, 50.0), math.nan),
    ],
)
def test_crossings(one, other, rate):
    assert crossing(one, other) == pytest.approx(rate, nan_ok=True)


def test_ladon_over_the_three_single_splits_leaves_scaling_out(measured):
    ((ladon, single, ratios),) = measured.ratios()
    assert (ladon, single) == ("Ladon β 1", "single β 1")
    assert ratios["network time"].median == pytest.approx(0.114 / 0.2)
    assert ratios["bytes"].median == pytest.approx(1 / 3)


def test_csv_has_a_line_for_each_way_and_link(measured):
    lines = list(csv.DictReader(io.StringIO(csv_text(tables.CSV_COLUMNS, tables.rows(measured)))))
    assert [(line["link"], line["way"]) for line in lines[:2]] == [
        ("slow", "on device"),
        ("slow", "JPEG q50"),
    ]
    assert len(lines) == 8
    assert float(lines[3]["link: bytes / rate [s]"]) == pytest.approx(0.4)
    assert {line["energy"] for line in lines} == {"modelled"}


def test_json_holds_everything_and_no_infinity(measured):
    measured.rapl_j = {"Ladon β 1": 0.25}
    plain = tables.to_plain(measured, {"images": 2})
    text = json.dumps(plain, allow_nan=False)
    ladon = json.loads(text)["ways"][-1]
    assert ladon["messages"] == 1
    assert ladon["device_half_j"] == {"how": "measured", "joules": 0.25}
    assert ladon["links"]["slow"]["energy_j"]["how"] == "modelled"
    assert ladon["stages"]["server"]["body"]["median"] == pytest.approx(0.03)
    assert plain["break_even"]["against"]["Ladon β 1"]["JPEG q50"] is None  # never as slow


def test_tables_for_people(measured):
    slow, _ = tables.latency_tables(measured)
    assert slow.title == "slow: 10 kbit/s, round trip 100 ms"
    assert "| Ladon β 1 | 500 | 26 | 500 | 103 | 629 | 627–631 | 631 | " in markdown_table(slow)
    ratio = tables.ratio_table(measured)
    assert ratio is not None
    assert "| Ladon β 1 | network time | 0.570 | 0.570–0.570 |" in markdown_table(ratio)
    assert tables.real_table(measured) is None
    assert "5.17 kbit/s" in markdown_table(tables.break_even_table(measured))


def test_pictures_show_every_way(measured, tmp_path):
    measured.accuracy = [
        {
            "way": way,
            "task": "image_classification",
            "title": "Image classification",
            "label": "Acc@1 [%]",
            "value": value,
        }
        for way, value in (("Ladon β 1", 90.0), ("JPEG q50", 95.0), ("not timed", 1.0))
    ]
    latency = figures.latency_figure(measured)
    first = latency.axes[0]
    assert [text.get_text() for text in first.get_yticklabels()] == list(measured.ways)
    bars = [bar for bar in first.patches if bar.get_y() == pytest.approx(3 - 0.375)]
    assert sum(bar.get_width() for bar in bars) == pytest.approx(629)
    rates = figures.rate_figure(measured).axes[0]
    ladon = next(line for line in rates.lines if line.get_label() == LADON)
    assert ladon.get_ydata()[0] == pytest.approx(1000 * (0.129 + 0.1 + 0.4))
    energy = figures.energy_figure(measured)
    assert energy is not None
    assert [axes.get_title() for axes in energy.axes] == ["LTE, 6 Mbit/s"]  # of 'slow', no radio
    accuracy = figures.accuracy_figure(measured)
    assert accuracy is not None
    assert len(accuracy.axes) == 2
    for number, figure in enumerate((latency, energy, accuracy)):
        save_figure(figure, tmp_path / f"{number}.png")
