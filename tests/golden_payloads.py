"""Payloads of fixed content, whose bytes are pinned by the files in `data_payloads`.

The files were written by `Payload.to_bytes` in version 1 of the format, once. They stay as they
are: a payload that was sent or kept is read by every later version.
"""

from __future__ import annotations

from pathlib import Path

from ladon.codec.container import BottleneckKind, Fit, Payload, crc32c

FOLDER = Path(__file__).parent / "data_payloads"
ID = bytes(range(0xA0, 0xA8))

GOLDEN = {
    "factorized": Payload(
        strings=(b"\x01\x02\x03\x04\xfe\xff\x00\x80",),
        shape=(55, 55),
        encoder_id=ID,
        kind=BottleneckKind.FACTORIZED,
        image_size=(480, 640),
        scaled_size=(256, 341),
        input_size=(224, 224),
        fit=Fit.CROPPED,
    ),
    "hyperprior": Payload(
        strings=(b"y of it!", b"z's."),
        shape=(50, 68),
        encoder_id=ID[::-1],
        kind=BottleneckKind.MEAN_SCALE_HYPERPRIOR,
        image_size=(427, 640),
        scaled_size=(800, 1199),
        input_size=(800, 1216),
        fit=Fit.PADDED,
        rate=3,
    ),
    "own_kind": Payload(
        strings=(b"upper", b"", b"lower"),
        shape=(1, 65),
        encoder_id=bytes(8),
        kind=BottleneckKind.OWN,
        image_size=(33, 0xFFFF),
        scaled_size=(2, 520),
        input_size=(2, 520),
        fit=Fit.RESIZED,
        rate=254,
    ),
}


def golden_bytes(name: str) -> bytes:
    """A payload as its file has it."""
    return (FOLDER / f"{name}.ladon").read_bytes()


def resealed(data: bytes, offset: int, put: bytes) -> bytes:
    """A payload with other bytes at a place, and the checksum that is right for them."""
    content = data[:offset] + put + data[offset + len(put) : -4]
    return content + crc32c(content).to_bytes(4, "little")
