"""Payloads of whatever bytes: refused by the right error, or read and written alike."""

from __future__ import annotations

from fuzzing import DAMAGES, damaged, fuzz, in_child, refusals
from golden_payloads import GOLDEN, golden_bytes, resealed
from hypothesis import strategies as st

from ladon.codec.container import (
    MAGIC,
    MOST_IMAGE_PIXELS,
    MOST_INPUT_PIXELS,
    MOST_POSITIONS,
    NewerPayloadError,
    Payload,
)
from ladon.errors import PayloadError

NAMES = st.sampled_from(sorted(GOLDEN))
NUMBERS = st.sampled_from([0, 1, 2, 3, 15, 255, 256, 4096, 65535]) | st.integers(0, 65535)


def read(data: bytes) -> Payload | None:
    with refusals() as said:
        try:
            return Payload.from_bytes(data, source="a.ladon")
        except PayloadError as error:
            kind = type(error)
            raise
    assert said[0].startswith("a.ladon: ")
    assert kind is not PayloadError, "each reason has an error of its own"
    return None


@fuzz(st.tuples(NAMES, DAMAGES), 1500)
def changed(case):
    """No change is overlooked."""
    name, damages = case
    bad = damaged(golden_bytes(name), damages)
    assert (read(bad) is not None) == (bad == golden_bytes(name))


@fuzz(st.binary(max_size=200), 500, b"", b"\x8cLD", b"\x8cLD\x01", b"\x8cLD\x01" + b"\xff" * 60)
def anything(data):
    """Nothing comes out of arbitrary bytes."""
    assert read(data) is None


@fuzz(st.tuples(NAMES, st.lists(st.tuples(st.integers(3, 40), NUMBERS), max_size=4)), 1500)
def hostile(case):
    """Fields of whatever values under a right checksum: within bounds, and in their one form."""
    name, changes = case
    data = golden_bytes(name)
    for at, number in changes:
        data = resealed(data, at, number.to_bytes(2, "little"))
    payload = read(data)
    if payload is None:
        return
    assert payload.to_bytes() == data
    bounds = {
        payload.image_size: MOST_IMAGE_PIXELS,
        payload.scaled_size: MOST_INPUT_PIXELS,
        payload.input_size: MOST_INPUT_PIXELS,
        payload.shape: MOST_POSITIONS,
    }
    assert all(0 < height * width <= most for (height, width), most in bounds.items())
    assert payload.num_body_bytes < len(data)


@fuzz(st.tuples(st.integers(2, 255), st.binary(max_size=60)), 100)
def newer(case):
    """Whatever a later version holds, it is called newer."""
    version, rest = case
    data = MAGIC + bytes([version]) + rest
    try:
        Payload.from_bytes(data)
    except NewerPayloadError:
        return
    raise AssertionError(f"{data!r} was read")


def test_payloads_in_a_child(tmp_path):
    in_child(__name__, tmp_path)
