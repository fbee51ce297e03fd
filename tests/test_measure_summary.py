"""Medians, links and energies: numbers that can be worked out by hand."""

from __future__ import annotations

import pytest
import yaml

from ladon.errors import UsageError
from ladon.measure import energy
from ladon.measure.clock import Clock
from ladon.measure.energy import Rapl, devices, find_device, modelled, radio_of
from ladon.measure.links import LINKS, Link, read_link
from ladon.measure.summary import Summary


def test_a_summary_holds_median_interval_and_percentiles():
    found = Summary.of(range(101))
    assert (found.n, found.median) == (101, 50.0)
    assert found.percentiles == {5: 5.0, 25: 25.0, 75: 75.0, 90: 90.0, 95: 95.0, 99: 99.0}
    # of the median of n uniform values: about n / 2 ± 1.96 * sqrt(n) / 2
    assert found.low == pytest.approx(40, abs=4)
    assert found.high == pytest.approx(60, abs=4)
    assert found == Summary.of(range(101))  # drawn alike each time


def test_of_equal_values_there_is_no_spread():
    found = Summary.of([3.0])
    assert (found.median, found.low, found.high) == (3.0, 3.0, 3.0)


def test_lora_takes_a_kilobyte_in_a_fifth_of_a_second():
    lora = LINKS[0]
    assert lora.bits_per_s == 500_000 * 6 / 2**6 * 4 / 5
    assert lora.transmit_seconds(1000) == pytest.approx(8000 / 37_500)


def test_links_are_read():
    assert read_link("lte") is next(link for link in LINKS if link.name == "LTE")
    assert read_link("mine=64:250") == Link("mine", 64_000, 0.25)
    assert read_link("mine=64") == Link("mine", 64_000, 0.0)


@pytest.mark.parametrize("text", ["5G", "x=", "x=0", "x=-1:3", "x=nan", "x=inf:1", "=3", "x=1:y"])
def test_wrong_links_are_refused(text):
    with pytest.raises(UsageError, match=f"--links {text}: .*NAME=KBIT/S:ROUND_TRIP_MS"):
        read_link(text)


def test_every_power_has_a_source_and_every_link_a_radio():
    assert list(devices()) == ["raspberry_pi_4", "jetson_nano", "jetson_xavier_nx"]
    for device in devices().values():
        assert device.source.strip()
        assert device.compute_w > (device.idle_w or 0)
    for link in LINKS:
        radio = radio_of(link.name)
        assert radio is not None
        assert radio.source.strip()
    assert radio_of("a link of mine") is None


def test_energy_is_power_times_time():
    pi = find_device("raspberry_pi_4")
    found = modelled(pi, "LTE", 6e6, compute_s=0.1, transmit_s=0.02, waiting_s=0.5)
    assert found.compute_j == pytest.approx(0.1 * 5.4)
    # the published model of an LTE radio: 1.28804 W, and 0.43839 W for each Mbit/s
    assert found.transmit_j == pytest.approx(0.02 * (1.28804 + 6 * 0.43839))
    assert found.waiting_j == pytest.approx(0.5 * 2.2)
    assert found.total_j == pytest.approx(0.54 + 0.02 * 3.91838 + 1.1)


def test_what_no_source_tells_is_left_out():
    nano = find_device("jetson_nano")
    found = modelled(nano, "LTE", 6e6, compute_s=0.1, transmit_s=0.0, waiting_s=0.5)
    assert found.waiting_j is None
    assert found.total_j == pytest.approx(1.0)
    unknown = modelled(nano, "a link of mine", 6e6, compute_s=0.1, transmit_s=0.1, waiting_s=0.5)
    assert (unknown.transmit_j, unknown.total_j) == (None, None)
    with pytest.raises(UsageError, match="--power toaster: none of raspberry_pi_4, "):
        find_device("toaster")


@pytest.fixture
def counters(tmp_path):
    """Two packages, of which one has a part; their counters end at 1000."""
    for name, value in (("intel-rapl:0", 900), ("intel-rapl:1", 10), ("intel-rapl:0:0", 7)):
        zone = tmp_path / name
        zone.mkdir()
        (zone / "energy_uj").write_text(f"{value}\n")
        (zone / "max_energy_range_uj").write_text("1000\n")
    return tmp_path


def test_counters_of_all_packages_are_read_over_their_ends(counters):
    meter = Rapl.open(counters)
    assert meter is not None

    def work():
        (counters / "intel-rapl:0" / "energy_uj").write_text("50\n")  # past its end
        (counters / "intel-rapl:1" / "energy_uj").write_text("30\n")
        (counters / "intel-rapl:0:0" / "energy_uj").write_text("99\n")  # in package 0 already

    assert meter.measure(work) == pytest.approx((150 + 20) / 1e6)


def test_without_a_meter_nothing_is_measured(counters, tmp_path):
    assert Rapl.open(tmp_path / "nowhere") is None
    (counters / "intel-rapl:1" / "energy_uj").unlink()  # as where it may not be read
    assert Rapl.open(counters) is None


def test_the_powers_are_one_file():
    powers = energy.resources.files("ladon.measure").joinpath("power.yaml").read_text("utf-8")
    assert set(yaml.safe_load(powers)) == {"devices", "radios"}


def test_a_clock_gives_the_rest_to_the_stage_around(monkeypatch):
    times = iter([10.0, 17.0])
    monkeypatch.setattr("ladon.measure.clock.time.perf_counter", lambda: next(times))
    clock = Clock()
    clock.add("coding", 1.0)
    with clock.stage("coding"):
        clock.add("analysis", 2.0)
        clock.add("coding", 1.5)
    assert clock.seconds == {"coding": 1.0 + 1.5 + 3.5, "analysis": 2.0}
