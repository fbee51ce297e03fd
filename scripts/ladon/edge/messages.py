"""Messages of the Open Inference Protocol v2 over HTTP, with tensors as binary data.

A message is a JSON object, and after it in the same body the bytes of its tensors, one after
another in the object's order; the header `Inference-Header-Content-Length` says where the object
ends. Numbers are little-endian, row by row; an element of `BYTES` is its length in four bytes and
then itself. By the protocol and its binary tensor data extension as KServe states them:
https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol

Bounds hold before anything is allocated by what a message says.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from ladon.errors import UsageError

HEADER_LENGTH = "Inference-Header-Content-Length"
MOST_HEADER_BYTES = 1 << 16
"""Of a message's JSON object. This project's take a few hundred."""
MOST_JSON_ELEMENTS = 1 << 20
"""Of a tensor that is asked for as JSON: each takes two to twenty bytes there."""
COMPRESSIONS = ("gzip", "deflate")
"""Of bodies, by their names in HTTP; deflate is zlib's format (RFC 9110, 8.4.1.2)."""

_MOST_DIMS = 8
_MOST_SIDE = 2**31 - 1
_DTYPES = {"UINT8": "<u1", "INT64": "<i8", "FP64": "<f8"}
_BYTES = "BYTES"
_LENGTH = struct.Struct("<I")

Tensors = Mapping[str, np.ndarray]
"""Tensors by name; those of objects hold `bytes`, and are `BYTES` in a message."""


class ProtocolError(UsageError):
    """A message that is not in the protocol, or not one of this project's."""


class TooLargeError(ProtocolError):
    """A message, or a part of it, that is larger than is taken."""


class Message(NamedTuple):
    """A body, and what belongs to HTTP's headers beside its length."""

    body: bytes
    headers: dict[str, str]


def write_message(
    head: Mapping[str, Any], kind: str, tensors: Tensors, as_json: frozenset[str] = frozenset()
) -> Message:
    """Write a message.

    Args:
        head: what else its object says.
        kind: where its tensors are listed: 'inputs' or 'outputs'.
        tensors: uint8, int64, float64, or objects that are bytes.
        as_json: names of those that are written into the object.

    Raises:
        TooLargeError: one has too many elements to be written as JSON.
    """
    listed, parts = [], []
    for name, tensor in tensors.items():
        datatype = datatype_of(tensor)
        entry: dict[str, Any] = {"name": name, "datatype": datatype, "shape": list(tensor.shape)}
        if name in as_json:
            if tensor.size > MOST_JSON_ELEMENTS:
                raise TooLargeError(
                    f"{name} has {tensor.size:,} elements, over the {MOST_JSON_ELEMENTS:,} that "
                    "are written as JSON: ask for it as binary data"
                )
            entry["data"] = _plain(tensor)
        else:
            parts.append(_packed(tensor, datatype))
            entry["parameters"] = {"binary_data_size": len(parts[-1])}
        listed.append(entry)
    text = json.dumps({**head, kind: listed}, separators=(",", ":")).encode()
    if not parts:
        return Message(text, {"Content-Type": "application/json"})
    headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(text))}
    return Message(b"".join((text, *parts)), headers)


def read_message(
    body: bytes, header_length: str | None, kind: str
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read a message all of whose tensors are binary data.

    Args:
        body: of the message; bound it before.
        header_length: the value of its header `HEADER_LENGTH`; None: it has none.
        kind: where its tensors are listed: 'inputs' or 'outputs'.

    Returns:
        What its object says, without the tensors, and those by name. They may share the body's
        memory, and cannot be written to.

    Raises:
        ProtocolError: it is no such message.
    """
    end = _end_of_object(header_length, len(body))
    head = _object(body[:end])
    listed = head.pop(kind, None)
    if not isinstance(listed, list):
        raise ProtocolError(f"'{kind}' of a message must be a list of tensors")
    tensors: dict[str, np.ndarray] = {}
    for entry in listed:
        name, datatype, shape, size = _described(entry)
        if name in tensors:
            raise ProtocolError(f"tensor '{name}' is there twice")
        if size > len(body) - end:
            raise ProtocolError(
                f"tensor '{name}' has {size:,} bytes of binary data, and {len(body) - end:,} are "
                "left in the message"
            )
        tensors[name] = _unpacked(body[end : end + size], name, datatype, shape)
        end += size
    if end != len(body):
        raise ProtocolError(f"{len(body) - end:,} bytes of binary data belong to no tensor")
    return head, tensors


def compress(body: bytes, encoding: str) -> bytes:
    """Compress a body, for speed rather than size."""
    packer = zlib.compressobj(1, wbits=31 if encoding == "gzip" else 15)
    return packer.compress(body) + packer.flush()


def decompress(body: bytes, encoding: str | None, most: int) -> bytes:
    """Undo a body's compression.

    Args:
        body: as it came.
        encoding: the value of its header `Content-Encoding`; None: it has none.
        most: how many bytes it may become.

    Raises:
        TooLargeError: it is more.
        ProtocolError: it is not compressed like that, or the compression is not known.
    """
    encoding = (encoding or "identity").strip().lower()
    if encoding != "identity":
        if encoding not in COMPRESSIONS:
            raise ProtocolError(
                f"content encoding '{encoding[:40]}' is not known: take {' or '.join(COMPRESSIONS)}"
            )
        unpacker = zlib.decompressobj(wbits=31 if encoding == "gzip" else 15)
        try:
            body = unpacker.decompress(body, most + 1)
        except zlib.error:
            raise ProtocolError(f"a body that is not compressed by {encoding}") from None
        if len(body) <= most and (not unpacker.eof or unpacker.unused_data):
            raise ProtocolError(f"a body by {encoding} that is cut off, or goes on after its end")
    if len(body) > most:
        raise TooLargeError(f"a body of more than {most:,} bytes")
    return body


def datatype_of(tensor: np.ndarray) -> str:
    """Return a tensor's type in the protocol's words."""
    if tensor.dtype == object:
        return _BYTES
    return next(name for name, dtype in _DTYPES.items() if tensor.dtype == np.dtype(dtype))


def _plain(tensor: np.ndarray) -> list[Any]:
    flat = tensor.ravel().tolist()
    return [item.decode() for item in flat] if tensor.dtype == object else flat


def _packed(tensor: np.ndarray, datatype: str) -> bytes:
    if datatype == _BYTES:
        items = tensor.ravel().tolist()
        return b"".join(part for item in items for part in (_LENGTH.pack(len(item)), item))
    return tensor.astype(_DTYPES[datatype], copy=False).tobytes()


def _unpacked(data: bytes, name: str, datatype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return a tensor of its bytes, which have been counted."""
    count = math.prod(shape)
    if datatype == _BYTES:
        flat = _byte_strings(data, name, count)
    else:
        dtype = np.dtype(_DTYPES[datatype])
        if count * dtype.itemsize != len(data):
            raise ProtocolError(
                f"tensor '{name}' of {count:,} elements has {len(data):,} bytes, not "
                f"{count * dtype.itemsize:,}"
            )
        flat = np.frombuffer(data, dtype)
    try:
        return flat.reshape(shape)
    except ValueError:  # an empty one whose other sides are absurd
        raise ProtocolError(f"tensor '{name}': no tensor is of shape {list(shape)}") from None


def _byte_strings(data: bytes, name: str, count: int) -> np.ndarray:
    if count * _LENGTH.size > len(data):
        raise ProtocolError(f"tensor '{name}': {len(data):,} bytes are too few for {count:,} items")
    items, at = np.empty(count, object), 0
    for number in range(count):
        if at + _LENGTH.size > len(data):
            raise ProtocolError(f"tensor '{name}' is cut off at item {number}")
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        if length > len(data) - at:
            raise ProtocolError(f"tensor '{name}' is cut off within item {number}")
        items[number] = data[at : at + length]
        at += length
    if at != len(data):
        raise ProtocolError(f"tensor '{name}' goes on after its last item")
    return items


def _end_of_object(header_length: str | None, length: int) -> int:
    """Return where a message's object ends."""
    end = length
    if header_length is not None:
        # as digits in ASCII: `int` takes '1_0', '+10' and '١٠', too
        is_number = header_length.isascii() and header_length.isdigit()
        if not is_number or len(header_length) > 10:
            raise ProtocolError(f"{HEADER_LENGTH} '{header_length[:40]}' is no number of bytes")
        end = int(header_length)
    if end > length:
        raise ProtocolError(f"{HEADER_LENGTH} {end} of a body of {length:,} bytes")
    if end > MOST_HEADER_BYTES:
        raise TooLargeError(
            f"a message's JSON object of {end:,} bytes, over {MOST_HEADER_BYTES:,}: send tensors "
            f"as binary data, and the object's length as {HEADER_LENGTH}"
        )
    return end


def _object(text: bytes) -> dict[str, Any]:
    try:
        head = json.loads(text)
    except (ValueError, RecursionError):  # neither JSON nor UTF-8; nested thousands deep
        raise ProtocolError("a message that does not begin with a JSON object") from None
    if not isinstance(head, dict):
        raise ProtocolError("a message's JSON must be an object")
    return head


def _described(entry: Any) -> tuple[str, str, tuple[int, ...], int]:
    """Return name, type, shape and number of bytes of a tensor in a message's list."""
    if not isinstance(entry, dict) or not _is_name(entry.get("name")):
        raise ProtocolError("each tensor must be an object with a 'name', of 1 to 64 characters")
    name, datatype, shape = entry["name"], entry.get("datatype"), entry.get("shape")
    if not isinstance(datatype, str) or datatype not in (*_DTYPES, _BYTES):
        raise ProtocolError(f"tensor '{name}': datatype must be one of {', '.join(_DTYPES)}, BYTES")
    if (
        not isinstance(shape, list)
        or len(shape) > _MOST_DIMS
        or not all(is_whole(side, _MOST_SIDE) for side in shape)
    ):
        raise ProtocolError(f"tensor '{name}': shape must be a list of whole numbers")
    parameters = entry.get("parameters", {})
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    if not is_whole(size, _MOST_SIDE):
        raise ProtocolError(
            f"tensor '{name}' must be binary data, whose parameter 'binary_data_size' is the "
            "number of its bytes"
        )
    return name, datatype, tuple(shape), size


def _is_name(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and 1 <= len(value) <= 64


def is_whole(value: Any, most: int) -> TypeGuard[int]:
    """Whether a value of a message is a whole number from 0 to `most`."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most
