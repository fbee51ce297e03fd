"""The bytes of one image's payload, as they are sent and kept in `.ladon` files.

This is the specification of version 1. Numbers are unsigned and little-endian; sizes are a height
and a width of two bytes each, in pixels or, of the latent, in positions.

    offset  bytes  what
    0       3      magic: 8C 4C 44; no text in UTF-8 begins like that
    3       1      version: 1
    4       8      encoder id: `ladon.bottlenecks.encoder_id` of the sender's bottleneck
    12      1      kind of bottleneck: `BottleneckKind`
    13      1      rate level of an encoder that has several, 0 to 254; 255: it has one
    14      1      high four bits: coder, `CoderId`; low four bits: number n of strings, 1 to 15
    15      1      how the image was fitted to the encoder's input: `Fit`
    16      4      size of the image
    20      4      size to which it was scaled
    24      4      size of the encoder's input: what was cut out of that, or padded around it
    28      4      size of the latent that goes with the strings
    32      4 n    length of each string in bytes
    32+4n          the strings, one after another: the body
    end-4   4      CRC-32C of all before it

One string takes 40 bytes beside it, each further one 4 more. A hyperprior's payload has two, y and
then z. Its latent size is z's: y's follows from what the hyper synthesis makes of z, as in
`ladon.bottlenecks.Coder.shape`, and a second size could only contradict it.

A reader compares magic, version, length, checksum, encoder and then each field, in this order, and
refuses what it does not know, by an error of its own for each. Until all of that is right, nothing
is allocated by what the payload says. Numbers of kinds, coders and fits may be added to a version;
another layout is another version. Each payload has one form: what is read, is written alike.

CRC-32C, by Castagnoli's polynomial (RFC 3720, B.4; check value of `123456789`: E3069283), finds up
to three wrong bits in payloads of any size, where zlib's CRC-32 does so up to 11 kB (P. Koopman,
"32-bit cyclic redundancy codes for internet applications", DSN 2002), and processors have an
instruction for it. It finds accidents; it is no signature.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeVar

from ladon.errors import PayloadError

MAGIC = b"\x8cLD"
VERSION = 1
ENCODER_ID_BYTES = 8
MOST_STRINGS = 15
MOST_RATES = 255
"""Rate levels are smaller than this, whose byte says that there are none."""

MOST_IMAGE_PIXELS = 89_478_485
"""Images of more are not opened (`ladon.images`); a mask has as many."""
MOST_INPUT_PIXELS = 1 << 24
"""4096x4096: 200 MB as the encoder's input, and nine times the paper's largest, a detector's."""
MOST_POSITIONS = MOST_INPUT_PIXELS // 16
"""The paper's encoders make a position of 4x4 pixels: 100 MB of 24 channels in float32."""
MOST_BODY_BYTES = 16 * MOST_POSITIONS
"""The paper's payloads take less than two bytes for a position."""

_HEAD = struct.Struct("<3sB8sBBBB8H")
_NUMBER = struct.Struct("<I")
_CODING_AT = 14  # coder and number of strings

Size = tuple[int, int]
"""Height and width."""

_Enum = TypeVar("_Enum", bound=IntEnum)


class NotAPayloadError(PayloadError):
    """Bytes that do not begin as a payload does."""


class NewerPayloadError(PayloadError):
    """A payload in a version of the format that is newer than this reader."""


class PayloadLengthError(PayloadError):
    """A payload that is cut off, or goes on after its end."""


class PayloadChecksumError(PayloadError):
    """A payload some bits of which have changed on the way."""


class ForeignPayloadError(PayloadError):
    """A whole payload, but of an encoder that no model here has the decoder for."""


class PayloadFieldError(PayloadError):
    """A field that no encoder writes: an absurd size, or a number that stands for nothing."""


class BottleneckKind(IntEnum):
    """What wrote the strings; the encoder id tells which one exactly."""

    OWN = 0
    """A kind of a user's own."""
    FACTORIZED = 1
    """One string: a latent with a factorised prior."""
    SCALE_HYPERPRIOR = 2
    """Two strings: a latent, and the hyper latent that predicts its scales."""
    MEAN_SCALE_HYPERPRIOR = 3
    """Two strings: a latent, and the hyper latent that predicts its scales and means."""
    VARIABLE_RATE = 4
    """One string: a latent with a factorised prior, rounded to the steps of its rate level."""


class CoderId(IntEnum):
    """How symbols became a string."""

    RANS = 1
    """`ladon.codec.rans`: CompressAI's streams, of 32-bit words in little-endian order."""


class Fit(IntEnum):
    """How the image was fitted to the encoder's input."""

    NONE = 0
    """It was not: the input is the image."""
    RESIZED = 1
    """The input is all of the image, scaled."""
    CROPPED = 2
    """The input is the middle of the scaled image, as torchvision's `CenterCrop` cuts it."""
    PADDED = 3
    """The input is the scaled image with zeros below and on its right."""


@dataclass(frozen=True, kw_only=True)
class Payload:
    """One image's payload.

    Attributes:
        strings: what the coder wrote, in the order of the bottleneck's `parts`.
        shape: (h, w) that goes with the strings, from `ladon.bottlenecks.Coder.shape`.
        encoder_id: of the bottleneck that wrote them, 8 bytes.
        kind: of that bottleneck.
        image_size: height and width of the image in pixels.
        scaled_size: height and width to which it was scaled.
        input_size: height and width of the encoder's input.
        fit: how that was made of the image.
        rate: level of an encoder that has several; None: it has one.
        coder: how symbols became strings.

    Raises:
        PayloadFieldError: if one of them is out of its bounds, or sizes contradict each other.
    """

    strings: tuple[bytes, ...]
    shape: Size
    encoder_id: bytes
    kind: BottleneckKind
    image_size: Size
    scaled_size: Size
    input_size: Size
    fit: Fit
    rate: int | None = None
    coder: CoderId = CoderId.RANS

    def __post_init__(self) -> None:
        if len(self.encoder_id) != ENCODER_ID_BYTES:
            raise PayloadFieldError(
                f"an encoder id of {len(self.encoder_id)} bytes, not {ENCODER_ID_BYTES}"
            )
        if not 1 <= len(self.strings) <= MOST_STRINGS:
            raise PayloadFieldError(f"{len(self.strings)} strings, not 1 to {MOST_STRINGS}")
        if self.num_body_bytes > MOST_BODY_BYTES:
            raise PayloadFieldError(
                f"strings of {self.num_body_bytes:,} bytes, over {MOST_BODY_BYTES:,}"
            )
        if self.rate is not None and not 0 <= self.rate < MOST_RATES:
            raise PayloadFieldError(f"rate level {self.rate}, not 0 to {MOST_RATES - 1}")
        _check_sizes(self)
        _check_fit(self)

    @staticmethod
    def body_within(most_bytes: int, strings: int = 1) -> int:
        """Return how many bytes strings may have in a payload of at most so many bytes."""
        return most_bytes - _HEAD.size - (strings + 1) * _NUMBER.size

    @property
    def num_body_bytes(self) -> int:
        """Bytes of the strings, without what stands around them."""
        return sum(map(len, self.strings))

    def to_bytes(self) -> bytes:
        """Return the payload as it is sent."""
        sizes = (self.image_size, self.scaled_size, self.input_size, self.shape)
        head = _HEAD.pack(
            MAGIC,
            VERSION,
            self.encoder_id,
            self.kind,
            MOST_RATES if self.rate is None else self.rate,
            self.coder << 4 | len(self.strings),
            self.fit,
            *(side for size in sizes for side in size),
        )
        lengths = (_NUMBER.pack(len(string)) for string in self.strings)
        content = b"".join((head, *lengths, *self.strings))
        return content + _NUMBER.pack(crc32c(content))

    @classmethod
    def from_bytes(
        cls,
        data: bytes,
        *,
        expected: Collection[bytes] | None = None,
        source: str = "payload",
    ) -> Payload:
        """Read what `to_bytes` gave, from wherever it comes.

        Args:
            data: one payload, no more. The time that its checksum takes grows with it (here
                0.07 ms/kB): bound what is received before.
            expected: ids of the encoders whose payloads are taken; None: all are.
            source: names the payload in errors: its file, or who sent it.

        Raises:
            NotAPayloadError: the bytes do not begin as a payload does.
            NewerPayloadError: they are in a newer version of the format.
            PayloadLengthError: they are not as many as the header says.
            PayloadChecksumError: some of them have changed.
            ForeignPayloadError: the encoder is none of those expected.
            PayloadFieldError: no encoder writes such a field.
        """
        _check_version(data, source)
        strings = _whole_strings(data, source)
        _, _, encoder_id, kind, rate, coding, fit, *sides = _HEAD.unpack_from(data)
        if expected is not None and encoder_id not in expected:
            raise ForeignPayloadError(
                f"{source}: written by encoder {encoder_id.hex()}, and there is no model of it "
                f"here ({_listed(expected)}): use the model that the sender has"
            )
        image, scaled, seen, shape = zip(sides[::2], sides[1::2], strict=True)
        try:
            return cls(
                strings=strings,
                shape=shape,
                encoder_id=encoder_id,
                kind=_known(BottleneckKind, kind),
                image_size=image,
                scaled_size=scaled,
                input_size=seen,
                fit=_known(Fit, fit),
                rate=None if rate == MOST_RATES else rate,
                coder=_known(CoderId, coding >> 4),
            )
        except PayloadFieldError as error:
            raise PayloadFieldError(f"{source}: {error}; no encoder writes that") from None


def _check_version(data: bytes, source: str) -> None:
    """Look at what all versions have in common."""
    if data[: len(MAGIC)] != MAGIC:
        raise NotAPayloadError(
            f"{source}: no payload: it begins with {data[: len(MAGIC)].hex(' ') or 'nothing'}, "
            f"not {MAGIC.hex(' ')}"
        )
    version = data[len(MAGIC)] if len(data) > len(MAGIC) else VERSION
    if version > VERSION:
        raise NewerPayloadError(
            f"{source}: a payload of version {version}, newer than version {VERSION} that is read "
            "here: update this side"
        )
    if version < VERSION:
        raise NotAPayloadError(f"{source}: no payload: there is no version {version}")


def _whole_strings(data: bytes, source: str) -> tuple[bytes, ...]:
    """Return the strings of bytes that are as many as the header says, and unchanged."""
    count = data[_CODING_AT] & 15 if len(data) > _CODING_AT else 1
    body = _HEAD.size + count * _NUMBER.size
    least = body + _NUMBER.size
    if len(data) < least:
        raise _of_length(data, f"at least {least:,}", source)
    lengths = struct.unpack_from(f"<{count}I", data, _HEAD.size)
    end = body + sum(lengths)
    if len(data) != end + _NUMBER.size:
        raise _of_length(data, f"the {end + _NUMBER.size:,} that its header says", source)
    if _NUMBER.unpack_from(data, end)[0] != crc32c(data[:end]):
        raise PayloadChecksumError(
            f"{source}: its checksum does not fit its {len(data):,} bytes, some of which were "
            "changed: send it anew"
        )
    strings = []
    for length in lengths:
        strings.append(data[body : body + length])
        body += length
    return tuple(strings)


def _of_length(data: bytes, wanted: str, source: str) -> PayloadLengthError:
    return PayloadLengthError(
        f"{source}: a payload of {len(data):,} bytes, not {wanted}: send it anew, whole and alone"
    )


def _known(numbers: type[_Enum], number: int) -> _Enum:
    try:
        return numbers(number)
    except ValueError:
        raise PayloadFieldError(f"{numbers.__name__} {number}, which is not known") from None


def _check_sizes(payload: Payload) -> None:
    for what, size, most in (
        ("an image", payload.image_size, MOST_IMAGE_PIXELS),
        ("a scaled image", payload.scaled_size, MOST_INPUT_PIXELS),
        ("an encoder's input", payload.input_size, MOST_INPUT_PIXELS),
        ("a latent", payload.shape, MOST_POSITIONS),
    ):
        if len(size) != 2 or not all(1 <= side <= 0xFFFF for side in size):
            raise PayloadFieldError(f"{what} of {_shown(size)}: two sides of 1 to 65535 are needed")
        if size[0] * size[1] > most:
            raise PayloadFieldError(f"{what} of {_shown(size)}: more than {most:,} in all")
    if not _fits(payload.shape, payload.input_size):
        raise PayloadFieldError(
            f"a latent of {_shown(payload.shape)} of an input of {_shown(payload.input_size)}"
        )


def _check_fit(payload: Payload) -> None:
    image, scaled, seen = payload.image_size, payload.scaled_size, payload.input_size
    is_right = {
        Fit.NONE: tuple(image) == tuple(scaled) == tuple(seen),
        Fit.RESIZED: tuple(scaled) == tuple(seen),
        Fit.CROPPED: _fits(seen, scaled),
        Fit.PADDED: _fits(scaled, seen),
    }
    if not is_right[payload.fit]:
        raise PayloadFieldError(
            f"an image of {_shown(image)}, scaled to {_shown(scaled)} for an input of "
            f"{_shown(seen)}: that is not fit {payload.fit.name}"
        )


def _fits(inner: Size, outer: Size) -> bool:
    return inner[0] <= outer[0] and inner[1] <= outer[1]


def _shown(size: Sequence[int]) -> str:
    return "x".join(map(str, size))


def _listed(ids: Collection[bytes]) -> str:
    shown = [one.hex() for one in list(ids)[:4]]
    return ", ".join(shown + ["…"] * (len(ids) > len(shown))) or "none is loaded"


def _remainder(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)  # the polynomial, bits reversed
    return byte


_REMAINDERS = tuple(map(_remainder, range(256)))


def crc32c(data: bytes) -> int:
    """Return the CRC-32C of some bytes (RFC 3720, B.4)."""
    crc, remainders = 0xFFFFFFFF, _REMAINDERS
    for byte in data:
        crc = remainders[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF
