"""A device's energy for an image: modelled from stated powers, measured where a meter is at hand.

The model, for the device alone (the server hangs on the mains):

    compute power * time that it computes + transmit power * time that it sends
        + idle power * time that it waits for the server

`power.yaml` has the powers, each with its source. The meter is RAPL, the energy counter of Intel's
and AMD's processors (Linux, /sys/class/powercap); it covers the processor package of this machine
and no radio, so that it says something of `compute` only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from ladon.errors import UsageError

POWERCAP = Path("/sys/class/powercap")
MODELLED, MEASURED = "modelled", "measured"


@dataclass(frozen=True)
class Device:
    """A device's powers.

    Attributes:
        name: as people know it.
        compute_w: while its processor works, in watts.
        idle_w: while it waits; None: no source tells, and waiting is not counted.
        source: of both.
    """

    name: str
    compute_w: float
    idle_w: float | None
    source: str


@dataclass(frozen=True)
class Radio:
    """A radio's power while it sends: `base_w + per_mbit_w * rate`.

    Attributes:
        base_w: in watts.
        per_mbit_w: in watts for each Mbit/s.
        source: of both.
    """

    base_w: float
    per_mbit_w: float
    source: str

    def watts(self, bits_per_s: float) -> float:
        """Return the power at a rate."""
        return self.base_w + self.per_mbit_w * bits_per_s / 1e6


@cache
def _powers() -> Mapping[str, Mapping[str, Any]]:
    return yaml.safe_load(resources.files(__package__).joinpath("power.yaml").read_text("utf-8"))


def devices() -> dict[str, Device]:
    """Return the known devices by their keys."""
    return {key: Device(**values) for key, values in _powers()["devices"].items()}


def radio_of(link: str) -> Radio | None:
    """Return a link's radio, None if no source tells its power."""
    found = _powers()["radios"].get(link)
    return None if found is None else Radio(**found)


@dataclass(frozen=True)
class Energy:
    """A device's energy for an image in joules, by where it goes; None where no power is known."""

    compute_j: float
    transmit_j: float | None
    waiting_j: float | None

    @property
    def total_j(self) -> float | None:
        """All of it that is known; None without a radio's power for what is sent."""
        if self.transmit_j is None:
            return None
        return self.compute_j + self.transmit_j + (self.waiting_j or 0.0)


def modelled(
    device: Device,
    link: str,
    bits_per_s: float,
    compute_s: float,
    transmit_s: float,
    waiting_s: float,
) -> Energy:
    """Return the energy by the model above.

    Args:
        device: its powers.
        link: name of the link, whose radio sends.
        bits_per_s: its rate.
        compute_s, transmit_s, waiting_s: seconds of the device.
    """
    radio = radio_of(link)
    sent: float | None = 0.0
    if transmit_s:
        sent = None if radio is None else transmit_s * radio.watts(bits_per_s)
    waiting = None if device.idle_w is None else device.idle_w * waiting_s
    return Energy(device.compute_w * compute_s, sent, waiting)


class Rapl:
    """This machine's processor packages by their energy counters.

    Args:
        zones: folders of the packages, from `open`.
    """

    def __init__(self, zones: list[Path]) -> None:
        self._zones = zones

    @classmethod
    def open(cls, folder: Path = POWERCAP) -> Rapl | None:
        """Return the meter, None where there is none that this user may read.

        Args:
            folder: of the kernel's power zones.
        """
        zones = [zone for zone in sorted(folder.glob("intel-rapl:*")) if zone.name.count(":") == 1]
        try:
            for zone in zones:
                _microjoules(zone / "energy_uj"), _microjoules(zone / "max_energy_range_uj")
        except (OSError, ValueError):  # readable by root alone since CVE-2020-8694
            return None
        return cls(zones) if zones else None

    def measure(self, work: Callable[[], Any]) -> float:
        """Return the joules that all packages take while something works, whoever else does."""
        before = [_microjoules(zone / "energy_uj") for zone in self._zones]
        work()
        total = 0
        for zone, start in zip(self._zones, before, strict=True):
            spent = _microjoules(zone / "energy_uj") - start
            # the counter begins anew at its end
            total += spent if spent >= 0 else spent + _microjoules(zone / "max_energy_range_uj")
        return total / 1e6


def _microjoules(path: Path) -> int:
    return int(path.read_text(encoding="ascii"))


def find_device(key: str) -> Device:
    """Return a device by its key.

    Raises:
        UsageError: there is none.
    """
    known = devices()
    if key not in known:
        raise UsageError(f"--power {key}: none of {', '.join(known)}")
    return known[key]
