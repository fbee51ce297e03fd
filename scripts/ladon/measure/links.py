"""Links between a device and a server: a rate and a round trip, stated."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ladon.errors import UsageError


@dataclass(frozen=True)
class Link:
    """A link, as arithmetic has it: `bytes * 8 / rate`, and a round trip.

    Attributes:
        name: such as 'LTE'.
        bits_per_s: of the uplink.
        round_trip_s: between device and server, of an empty message.
    """

    name: str
    bits_per_s: float
    round_trip_s: float

    def transmit_seconds(self, num_bytes: float) -> float:
        """Return how long so many bytes take."""
        return 8 * num_bytes / self.bits_per_s


LINKS = (
    # spreading factor 6, 500 kHz, coding rate 4/5: 500,000 * 6 / 2^6 * 4/5 bit/s (Semtech, SX1276
    # data sheet, 4.1.1); its fastest, and the rate that the paper counts LoRa with
    Link("LoRa", 37_500, 0.100),
    Link("3G", 1_000_000, 0.150),
    # 6 Mbit/s: the median uplink of J. Huang et al., "A Close Examination of Performance and Power
    # Characteristics of 4G LTE Networks", MobiSys 2012
    Link("LTE", 6_000_000, 0.070),
    Link("Wi-Fi", 54_000_000, 0.005),
)
"""From slow to fast. Where no source is named the numbers are assumptions: `--links` has others."""


def read_link(text: str) -> Link:
    """Read `NAME=KBIT/S` or `NAME=KBIT/S:ROUND_TRIP_MS`; a known name alone is one of `LINKS`.

    Raises:
        UsageError: it is neither.
    """
    name, given, numbers = text.partition("=")
    if not given:
        known = {link.name.lower(): link for link in LINKS}
        if name.lower() in known:
            return known[name.lower()]
        raise UsageError(
            f"--links {text}: none of {', '.join(link.name for link in LINKS)}: describe it, as "
            "NAME=KBIT/S:ROUND_TRIP_MS"
        )
    rate, _, trip = numbers.partition(":")
    try:
        kbit, trip_ms = float(rate), float(trip or 0)
    except ValueError:
        kbit, trip_ms = math.nan, 0.0
    if not (name and 0 < kbit < math.inf and 0 <= trip_ms < math.inf):
        raise UsageError(
            f"--links {text}: not NAME=KBIT/S:ROUND_TRIP_MS with a rate above 0, such as "
            "LTE=6000:70"
        )
    return Link(name, 1000 * kbit, trip_ms / 1000)
