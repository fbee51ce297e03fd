"""Reads torch files without executing anything from them, and within the file's own size.

Both of torch's formats: the zip archive (its CRC-32s are checked, which torch leaves out), and the
one before it, which has no checksums. What else may lie in a checkpoint's place is named.
"""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ladon.errors import CheckpointError
from ladon.models.safe_globals import Builder, Storage, StorageType
from ladon.models.safe_pickle import Refused, SafeUnpickler, printable

_MAX_PICKLE = 1 << 26
_CHUNK = 1 << 20
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_STARTS = {
    b"version https://git-lfs": "a Git LFS pointer, not the file it points to; run 'git lfs pull'",
    b"\x1f\x8b": "a gzip archive, not a checkpoint; unpack it first",
    b"BZh": "a bzip2 archive, not a checkpoint; unpack it first",
    b"\xfd7zXZ\0": "an xz archive, not a checkpoint; unpack it first",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive, not a checkpoint; unpack it first",
    b"Rar!": "a rar archive, not a checkpoint; unpack it first",
    b"\x28\xb5\x2f\xfd": "a zstd archive, not a checkpoint; unpack it first",
    b"\x89HDF": "an HDF5 file, not a checkpoint of torch",
    b"\x93NUMPY": "a numpy array, not a checkpoint",
    b"PK\x05\x06": "an empty zip archive, not a checkpoint",
}
_PAGES = (b"<!doctype", b"<html", b"<?xml", b"<head")


def load_safely(path: str | os.PathLike) -> Any:
    """Load a torch file; tensors are on the CPU, and none of them asks for a gradient.

    Raises:
        CheckpointError: if the file is damaged, something else, or holds what is not let in.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            return _load(file, path.stat().st_size)
    except Refused as refusal:
        raise CheckpointError(f"{path}: {printable(str(refusal))}") from refusal
    except MemoryError as error:
        raise CheckpointError(f"{path}: refused: loading it takes more memory than there is") from (
            error
        )
    except (RuntimeError, EOFError, zipfile.BadZipFile, OSError) as error:
        reason = printable(" ".join(str(error).split())) or type(error).__name__
        raise CheckpointError(f"{path}: truncated or damaged: {reason:.160}") from error
    except Exception as error:  # arbitrary bytes end a parser in arbitrary ways
        reason = printable(" ".join(str(error).split())) or type(error).__name__
        raise CheckpointError(f"{path}: not a checkpoint, or damaged: {reason:.160}") from error


def _load(file: BinaryIO, size: int) -> Any:
    start = file.read(512)
    file.seek(0)
    if not start:
        raise Refused("truncated or damaged: it is empty; copy it anew")
    for magic, what in _STARTS.items():
        if start.startswith(magic):
            raise Refused(what)
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_PAGES):
        raise Refused("an HTML or XML page, not a checkpoint: a damaged download; fetch it anew")
    if start[257:262] == b"ustar":
        raise Refused("a tar archive, not a checkpoint; unpack it first")
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < size:
        raise Refused("a safetensors file, not a checkpoint of torch; convert it first")
    return _load_zip(file, size) if start.startswith(b"PK\x03\x04") else _load_legacy(file, size)


def _load_zip(file: BinaryIO, size: int) -> Any:
    with zipfile.ZipFile(file) as archive:
        records = {info.filename: info for info in archive.infolist()}
        if len(records) != len(archive.infolist()):
            raise Refused("refused: a zip archive that holds a name twice")
        main = _main_record(records)
        if any(info.compress_type != zipfile.ZIP_STORED for info in records.values()):
            raise Refused("refused: compressed records, which torch does not write; save it anew")
        if sum(info.file_size for info in records.values()) > size:
            raise Refused("refused: its records claim more bytes than the file has")
        prefix = main.removesuffix("data.pkl")
        order = records.get(f"{prefix}byteorder")
        if order is not None and order.file_size < 16 and archive.read(order) != b"little":
            raise Refused("written on a big-endian machine; save it anew on another")
        if records[main].file_size > _MAX_PICKLE:
            raise Refused(f"refused: a pickle of {records[main].file_size:,} bytes")
        storages: dict[str, Tensor] = {}

        def load_storage(pid: tuple) -> Storage:
            kind, key, count = _parsed(pid)
            name = f"{prefix}data/{key}"
            if name not in records:
                raise Refused(f"truncated or damaged: record {key} is missing")
            width = kind.dtype.itemsize if kind.dtype is not None else 1
            if records[name].file_size != count * width:
                raise Refused(f"damaged: record {key} has another size than its storage")
            if key not in storages:
                storages[key] = _read_record(archive, records[name])
            return Storage(storages[key], kind.dtype)

        stream = io.BytesIO(archive.read(records[main]))
        content = SafeUnpickler(stream, Builder(size).names(), load_storage).load()
        for name, info in records.items():  # what nothing refers to is checked for damage, too
            if name != main and name.removeprefix(f"{prefix}data/") not in storages:
                _read_record(archive, info)
    return content


def _main_record(records: dict[str, zipfile.ZipInfo]) -> str:
    found = [n for n in records if n.endswith("/data.pkl") and n.count("/") == 1]
    if len(found) != 1:
        names = ", ".join(list(records)[:3])
        raise Refused(f"a zip archive of something else ({names:.100}), not a checkpoint")
    prefix = found[0].removesuffix("data.pkl")
    if f"{prefix}constants.pkl" in records:
        raise Refused("a TorchScript archive, not a checkpoint; save the model's state_dict()")
    return found[0]


def _read_record(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Tensor:
    """Return a record's bytes; zipfile compares their CRC-32 at its end."""
    raw = torch.empty(info.file_size, dtype=torch.uint8)
    with archive.open(info) as record:
        _fill(raw, record)
        record.read(1)
    return raw


def _fill(raw: Tensor, source: Any) -> None:
    view = memoryview(raw.numpy())  # type: ignore[arg-type]  # an array is a buffer
    for start in range(0, len(view), _CHUNK):
        part = view[start : start + _CHUNK]
        if source.readinto(part) != len(part):
            raise Refused("truncated or damaged: a storage ends too early")


def _parsed(pid: tuple) -> tuple[StorageType, str, int]:
    """Type, key and number of elements that a persistent id names."""
    if len(pid) < 5 or pid[0] != "storage" or not isinstance(pid[1], StorageType):
        raise Refused("not a checkpoint, or damaged: an odd storage")
    key, count = pid[2], pid[4]
    if type(key) is not str or len(key) > 64 or type(count) is not int or count < 0:
        raise Refused("not a checkpoint, or damaged: an odd storage")
    return pid[1], key, count


class _Clamped:
    """A file that never makes room for more than there is."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size, self.tell = file, size, file.tell

    def read(self, count: int) -> bytes:
        return self._file.read(max(0, min(count, self._size - self.tell(), _MAX_PICKLE)))

    def readline(self) -> bytes:
        return self._file.readline(1 << 12)


def _load_legacy(file: BinaryIO, size: int) -> Any:
    """torch's format before 1.6: five pickles and then the storages' bytes."""
    stream: Any = _Clamped(file, size)
    if SafeUnpickler(stream, {}).load() != _MAGIC or SafeUnpickler(stream, {}).load() != _PROTOCOL:
        raise Refused("not a checkpoint, or damaged: a pickle, but none that torch wrote")
    if SafeUnpickler(stream, {}).load().get("little_endian") is not True:
        raise Refused("written on a big-endian machine; save it anew on another")
    storages: dict[str, tuple[Tensor, int, int]] = {}
    taken = 0

    def load_storage(pid: tuple) -> Storage:
        nonlocal taken
        kind, key, count = _parsed(pid)
        if kind.dtype is None or (len(pid) > 5 and pid[5] is not None and len(pid[5]) != 3):
            raise Refused("not a checkpoint, or damaged: an odd storage")
        width = kind.dtype.itemsize
        if key not in storages:
            taken += count * width
            if taken > size:
                raise Refused("truncated or damaged: its storages are larger than the file")
            storages[key] = torch.zeros(count * width, dtype=torch.uint8), count, width
        raw, known, _ = storages[key]
        if known != count or len(raw) != count * width:
            raise Refused("damaged: a storage of two sizes")
        if len(pid) > 5 and pid[5] is not None:
            _, offset, length = pid[5]
            raw = raw[offset * width : (offset + length) * width]
        return Storage(raw, kind.dtype)

    content = SafeUnpickler(stream, Builder(size).names(), load_storage).load()
    keys = SafeUnpickler(stream, {}).load()
    if type(keys) is not list or sorted(keys) != sorted(storages):
        raise Refused("truncated or damaged: storages are missing")
    for key in keys:
        raw, count, _ = storages[key]
        if int.from_bytes(stream.read(8), "little") != count:
            raise Refused("truncated or damaged: a storage of another size")
        _fill(raw, file)
    return content
