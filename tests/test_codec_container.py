"""A payload's bytes: as specified, and nothing else is read."""

from __future__ import annotations

from dataclasses import replace

import hyperpriors
import pytest
import torch
from golden_payloads import GOLDEN, ID, golden_bytes, resealed
from students import coded
from thin_bottleneck import ThinBottleneck

from ladon.bottlenecks import encoder_id, find_bottleneck
from ladon.codec.container import (
    MOST_BODY_BYTES,
    MOST_IMAGE_PIXELS,
    MOST_POSITIONS,
    VERSION,
    BottleneckKind,
    CoderId,
    Fit,
    ForeignPayloadError,
    NewerPayloadError,
    NotAPayloadError,
    Payload,
    PayloadChecksumError,
    PayloadFieldError,
    PayloadLengthError,
    crc32c,
)
from ladon.errors import PayloadError
from ladon.images import MAX_PIXELS

PLAIN = GOLDEN["factorized"]
SIDES = {"image": 16, "scaled": 20, "input": 24, "latent": 28}  # offsets, as specified


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),  # the check value of all catalogues of CRCs
        # RFC 3720, B.4
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_the_checksum_is_crc_32c(data, expected):
    assert crc32c(data) == expected


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_files_are_written_to_the_byte_and_read(name):
    payload, data = GOLDEN[name], golden_bytes(name)
    assert payload.to_bytes() == data
    assert Payload.from_bytes(data) == payload
    assert Payload.from_bytes(data, expected={payload.encoder_id: "a model"}) == payload


def test_a_golden_file_by_the_specification():
    """Read without the code that wrote it."""
    data = golden_bytes("hyperprior")
    assert data[:4] == bytes([0x8C, 0x4C, 0x44, 1])
    assert data[4:12] == bytes(range(0xA7, 0x9F, -1))
    assert list(data[12:16]) == [3, 3, 1 << 4 | 2, 3]  # mean-scale, level 3, rANS of two, padded
    halves = [data[i] | data[i + 1] << 8 for i in range(16, 32, 2)]
    assert halves == [427, 640, 800, 1199, 800, 1216, 50, 68]
    assert list(data[32:40]) == [8, 0, 0, 0, 4, 0, 0, 0]
    assert data[40:52] == b"y of it!z's."
    assert int.from_bytes(data[52:], "little") == crc32c(data[:52])
    assert len(data) == 56
    assert golden_bytes("factorized")[13] == 255  # no rate level


@pytest.mark.parametrize(("strings", "overhead"), [(1, 40), (2, 44), (3, 48), (15, 96)])
@pytest.mark.parametrize("length", [0, 1, 5000])
def test_overhead_is_what_the_specification_says(strings, overhead, length):
    payload = replace(PLAIN, strings=(b"\x80" * length,) * strings)
    data = payload.to_bytes()
    assert payload.num_body_bytes == strings * length
    assert len(data) - payload.num_body_bytes == overhead
    assert Payload.from_bytes(data) == payload


@pytest.mark.parametrize("name", GOLDEN)
def test_every_changed_byte_is_found(name):
    """Any change within a byte is a burst of at most eight bits: the checksum finds all of them."""
    data = golden_bytes(name)
    for at in range(len(data)):
        for change in (1, 0x80, 0xFF, data[at] or 7):
            bad = data[:at] + bytes([data[at] ^ change]) + data[at + 1 :]
            with pytest.raises(PayloadError, match=r"^payload: ") as refused:
                Payload.from_bytes(bad)
            if at < 4:
                expected = NotAPayloadError if at < 3 or change == 1 else NewerPayloadError
            elif (at == 14 and change != 0x80) or 32 <= at < 32 + 4 * len(GOLDEN[name].strings):
                expected = PayloadLengthError
            else:
                expected = PayloadChecksumError
            assert type(refused.value) is expected


@pytest.mark.parametrize("name", GOLDEN)
def test_no_other_length_is_read(name):
    data = golden_bytes(name)
    for end in range(len(data)):
        kind = NotAPayloadError if end < 3 else PayloadLengthError
        with pytest.raises(kind):
            Payload.from_bytes(data[:end])
    for more in (b"\0", data[-1:], bytes(4), data):
        with pytest.raises(
            PayloadLengthError, match=rf"^a\.ladon: .* {len(data) + len(more)} bytes"
        ):
            Payload.from_bytes(data + more, source="a.ladon")


@pytest.mark.parametrize("version", [0, 2, 255])
def test_another_version_is_named(version):
    bad = resealed(golden_bytes("factorized"), 3, bytes([version]))
    kind = NewerPayloadError if version > VERSION else NotAPayloadError
    with pytest.raises(kind, match=f"version {version}"):
        Payload.from_bytes(bad)
    if version > VERSION:  # whose layout nobody here knows
        with pytest.raises(NewerPayloadError, match="newer than version 1"):
            Payload.from_bytes(bad[:4])


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff\xd8\xff\xe0" + bytes(60), b"LDN" * 30])
def test_other_files_are_no_payloads(data):
    with pytest.raises(NotAPayloadError, match=r"^x: no payload: it begins with .*, not 8c 4c 44"):
        Payload.from_bytes(data, source="x")


@pytest.mark.parametrize(
    ("known", "shown"),
    [
        ([], "none is loaded"),
        ([bytes(8)], "0000000000000000"),
        ([bytes([i] * 8) for i in range(9)], "0303030303030303, …"),
    ],
)
def test_another_models_payload_is_refused(known, shown):
    with pytest.raises(ForeignPayloadError, match=f"by encoder {ID.hex()}, .*{shown}"):
        Payload.from_bytes(golden_bytes("factorized"), expected=known)


def sides(height: int, width: int) -> bytes:
    return height.to_bytes(2, "little") + width.to_bytes(2, "little")


@pytest.mark.parametrize(
    ("offset", "put", "message"),
    [
        (12, b"\x05", "BottleneckKind 5, which is not known"),
        (14, b"\x21", "CoderId 2, which is not known"),
        (14, b"\x01", "CoderId 0, which is not known"),
        (15, b"\x04", "Fit 4, which is not known"),
        *((at, sides(0, 9), f"{what}.* of 0x9: two sides") for what, at in SIDES.items()),
        *(
            (at, sides(65535, 65535), f"{what}.* of 65535x65535: more")
            for what, at in SIDES.items()
        ),
        (SIDES["latent"], sides(1, 225), "a latent of 1x225 of an input of 224x224"),
        (SIDES["latent"], sides(225, 1), "a latent of 225x1 of an input of 224x224"),
        (15, b"\0", "an image of 480x640, scaled to 256x341 .* of 224x224: .* not fit NONE"),
        (15, b"\1", "not fit RESIZED"),
        (15, b"\3", "not fit PADDED"),
        (SIDES["scaled"], sides(223, 341), "scaled to 223x341 .* not fit CROPPED"),
    ],
)
def test_a_field_that_no_encoder_writes_is_refused(offset, put, message):
    """With a checksum that is right: somebody wants to see what happens."""
    bad = resealed(golden_bytes("factorized"), offset, put)
    with pytest.raises(
        PayloadFieldError, match=rf"^a\.ladon: .*{message}.*; no encoder writes that$"
    ):
        Payload.from_bytes(bad, source="a.ladon")


def test_no_strings_are_refused():
    data = golden_bytes("factorized")
    bad = resealed(data[:14] + b"\x10" + data[15:32] + bytes(4), 0, b"")
    with pytest.raises(PayloadFieldError, match="0 strings, not 1 to 15"):
        Payload.from_bytes(bad)


def test_lengths_beyond_the_payload_are_refused():
    data = golden_bytes("hyperprior")
    for lengths in (b"\xff" * 8, bytes(4) + b"\xff" * 4, sides(13, 0) + bytes(4)):
        with pytest.raises(PayloadLengthError, match="a payload of 56 bytes, not the"):
            Payload.from_bytes(resealed(data, 32, lengths))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder_id": bytes(7)}, "an encoder id of 7 bytes, not 8"),
        ({"strings": ()}, "0 strings"),
        ({"strings": (b"",) * 16}, "16 strings"),
        ({"strings": (bytes(MOST_BODY_BYTES), b"x")}, "strings of 16,777,217 bytes"),
        ({"rate": 255}, "rate level 255, not 0 to 254"),
        ({"rate": -1}, "rate level -1"),
        ({"image_size": (1, 65536)}, "an image of 1x65536"),
        ({"shape": (4,)}, "a latent of 4: two sides"),
        ({"shape": (1024, 1025), "input_size": (4096, 4096)}, "a latent of 1024x1025"),
    ],
)
def test_nobody_writes_what_nobody_reads(changes, message):
    with pytest.raises(PayloadFieldError, match=message):
        replace(PLAIN, **changes)


def test_sizes_are_bounded_where_the_library_bounds_them():
    assert MOST_IMAGE_PIXELS == MAX_PIXELS
    # 4096x4096, whose latent is 4096/4 - 1 = 1023 on each side in the paper's encoders
    assert MOST_POSITIONS == 1024 * 1024
    largest = {"image_size": (4096, 4096), "scaled_size": (4096, 4096), "input_size": (4096, 4096)}
    payload = replace(PLAIN, fit=Fit.NONE, shape=(1023, 1023), **largest)
    assert Payload.from_bytes(payload.to_bytes()) == payload


def thin():
    torch.manual_seed(4)
    made = ThinBottleneck().eval()
    made.update()
    return made


@pytest.mark.parametrize(
    ("make", "kind", "overhead"),
    [
        (lambda: find_bottleneck(coded()), BottleneckKind.FACTORIZED, 40),
        (
            lambda: find_bottleneck(hyperpriors.student(hyperpriors.KINDS[0], updated=True)),
            BottleneckKind.SCALE_HYPERPRIOR,
            44,
        ),
        (
            lambda: find_bottleneck(hyperpriors.student(hyperpriors.KINDS[1], updated=True)),
            BottleneckKind.MEAN_SCALE_HYPERPRIOR,
            44,
        ),
        (thin, BottleneckKind.OWN, 44),
    ],
)
@torch.inference_mode()
def test_features_are_those_of_the_direct_way(make, kind, overhead):
    bottleneck = make()
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    direct = bottleneck.encode(images)
    received = []
    for number in range(len(images)):
        sent = Payload(
            strings=tuple(part[number] for part in direct["strings"]),
            shape=tuple(direct["shape"]),
            encoder_id=encoder_id(bottleneck),
            kind=bottleneck.payload_kind,
            image_size=(64, 96),
            scaled_size=(64, 96),
            input_size=(64, 96),
            fit=Fit.NONE,
        )
        data = sent.to_bytes()
        assert len(data) == sent.num_body_bytes + overhead
        received.append(Payload.from_bytes(data, expected=[encoder_id(bottleneck)]))
        assert received[-1] == sent
    assert {payload.kind for payload in received} == {kind}
    assert {payload.coder for payload in received} == {CoderId.RANS}
    strings = list(zip(*(payload.strings for payload in received), strict=True))
    features = bottleneck.decode(strings, received[0].shape)
    assert torch.equal(features, bottleneck.decode(**direct))
    assert torch.equal(features, bottleneck(images))
