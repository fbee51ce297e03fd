"""Hostile checkpoint files: made by hand, loaded in a child process whose memory is limited.

None of them may crash it, take memory or time without bounds, or end in a traceback.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import warnings
import zipfile
import zlib
from pathlib import Path

import pytest
import torch

from ladon.errors import CheckpointError
from ladon.models.checkpoint import load_into, load_safely, read_checkpoint

# what the child may take beyond what its libraries take: far less than 1 GiB in all
ROOM = 400 << 20
CHILD = """
import json, resource, sys, time
from ladon.errors import CheckpointError
from ladon.models.checkpoint import read_checkpoint
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + {room},) * 2)
for path in sys.argv[1:]:
    start = time.perf_counter()
    try:
        found = list(read_checkpoint(path, "test").model)
    except CheckpointError as error:
        found = str(error)
    print(json.dumps([found, time.perf_counter() - start]), flush=True)
"""


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def whole(value: int) -> bytes:
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + b"(" + b"".join(arguments) + b"tR"


def shape(*sides: int) -> bytes:
    return b"(" + b"".join(whole(side) for side in sides) + b"t"


def storage(count: int = 2, kind: str = "FloatStorage", key: str = "0") -> bytes:
    parts = (text("storage"), name("torch", kind), text(key), text("cpu"), whole(count))
    return b"(" + b"".join(parts) + b"tQ"


def tensor(size=(2,), stride=(1,), offset: int = 0, source: bytes | None = None) -> bytes:
    return call(
        name("torch._utils", "_rebuild_tensor_v2"),
        source or storage(),
        whole(offset),
        shape(*size),
        shape(*stride),
        b"\x89",
        call(name("collections", "OrderedDict")),
    )


def items(**values: bytes) -> bytes:
    return b"}(" + b"".join(text(k) + v for k, v in values.items()) + b"u"


def checkpoint(**values: bytes) -> bytes:
    return items(model=items(weight=tensor()), **values)


def scalar(dtype: bytes, data: bytes) -> bytes:
    return call(name("numpy._core.multiarray", "scalar"), dtype, data)


def dtype(code: str) -> bytes:
    return call(name("numpy", "dtype"), text(code), b"\x89", b"\x88")


def data(value: str) -> bytes:
    return call(name("_codecs", "encode"), text(value), text("latin1"))


def laughs(levels: int, leaf: bytes) -> bytes:
    """A tuple of three times a tuple of three times ...; memo 9 is the innermost."""
    return leaf + b"q\x09" + b"h\x09h\x09\x87q\x09" * levels


def write_zip(path: Path, pickled: bytes, *, compression: int = zipfile.ZIP_STORED, **more) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + pickled + b".")
        for key, content in ({"data/0": bytes(8)} | more).items():
            archive.writestr(f"archive/{key}", content)
    return path


big = whole(2_000_000_000)
frozen = name("torchvision.ops.misc", "FrozenBatchNorm2d")
counts = b"}(" + b"".join(whole(n) + b"K\x01" for n in range(30_000)) + b"u"
f8_state = b"(K\x03" + text(">") + b"NNN" + whole(-1) + whole(-1) + b"K\x00t"
REFUSED = {
    # numpy's scalar
    "object dtype": (checkpoint(best_value=scalar(dtype("O"), data("A" * 8))), "of type 'O'"),
    "huge text dtype": (checkpoint(best_value=scalar(dtype("U1000000000"), data("A"))), "of type"),
    "void dtype": (checkpoint(best_value=scalar(dtype("V8"), data("A" * 8))), "of type 'V8'"),
    "dtype of fields": (checkpoint(best_value=scalar(dtype("f8,O"), data("A" * 16))), "of type"),
    "scalar too short": (checkpoint(best_value=scalar(dtype("f8"), data("A"))), "another length"),
    "scalar too long": (checkpoint(best_value=scalar(dtype("f4"), data("A" * 8))), "another len"),
    "scalar of no bytes": (checkpoint(best_value=scalar(dtype("i8"), whole(8))), "another length"),
    "other byte order": (
        checkpoint(best_value=scalar(dtype("f8") + f8_state + b"b", data("A" * 8))),
        "byte order",
    ),
    "array": (
        checkpoint(x=name("numpy._core.multiarray", "_reconstruct")),
        "holds numpy._core.multiarray._reconstruct, which no checkpoint",
    ),
    # what allocates by its arguments
    "frozen batch norm": (checkpoint(args=call(frozen, big)), "calls FrozenBatchNorm2d"),
    "new batch norm": (checkpoint(args=frozen + b"(" + big + b"t\x81"), "calls FrozenBatchNorm2d"),
    "tensor": (checkpoint(args=call(name("torch", "Tensor"), big)), "torch.Tensor"),
    "storage class": (checkpoint(x=call(name("torch", "FloatStorage"), big)), "calls"),
    "bytearray": (checkpoint(x=call(name("__builtin__", "bytearray"), big)), "bytearray"),
    "meta tensor": (
        checkpoint(x=name("torch._utils", "_rebuild_meta_tensor_no_storage")),
        "_rebuild_meta_tensor_no_storage",
    ),
    "counter of letters": (
        checkpoint(x=call(name("collections", "Counter"), text("abc"))),
        "Counter of something else",
    ),
    "namespace called": (checkpoint(args=call(name("argparse", "Namespace"))), "calls argparse."),
    "state of a tensor": (checkpoint(x=tensor() + b"}b"), "gives a state to a Tensor"),
    "codec": (
        checkpoint(x=call(name("_codecs", "encode"), text("abc"), text("zip"))),
        "bytes in another form",
    ),
    # nesting and work
    "laughs": (checkpoint(x=laughs(25, text("lol"))), "nested references"),
    "laughs of a long text": (checkpoint(x=laughs(9, text("l" * 50_000))), "nested references"),
    "laughing key": (checkpoint(x=b"}" + laughs(40, text("lol")) + b"Ns"), "keys of type tuple"),
    "holds itself": (checkpoint(x=b"]q\x05h\x05a"), "holds itself"),
    "holds itself by a dict": (checkpoint(x=b"}q\x05" + text("a") + b"h\x05s"), "holds itself"),
    "deep tuples": (checkpoint(x=b"N" + b"\x85" * 300_000), "nested more than 100 deep"),
    "deep lists": (checkpoint(x=b"]" * 9000 + b"a" * 8999), "nested more than 100 deep"),
    "deep key": (checkpoint(x=b"}N" + b"\x85" * 300_000 + b"Ns"), "keys of type tuple"),
    "key of a list": (checkpoint(x=b"}]Ns"), "keys of type list"),
    "key of many bits": (checkpoint(x=b"}" + whole(1 << 61) + b"Ns"), "a key of 62 bits"),
    "work": (
        checkpoint(x=counts + b"q\x06\x85q\x07")
        + b"(" + (name("collections", "Counter") + b"h\x07R") * 200 + b"t",
        "steps to load",
    ),
    "bytes again and again": (
        b"(" + text("a" * 1_000_000) + b"q\x07"
        + (name("_codecs", "encode") + b"h\x07" + text("latin1") + b"\x86R") * 1000 + b"t",
        "steps to load",
    ),
    # tensors and their storages
    "larger than its storage": (items(w=tensor((3,))), "needs more numbers"),
    "huge": (items(w=tensor((1 << 30, 4), (4, 1))), "needs more numbers"),
    "beyond by its offset": (items(w=tensor((2,), offset=1)), "needs more numbers"),
    "beyond by its strides": (items(w=tensor((2, 2), (7, 1))), "needs more numbers"),
    "negative stride": (items(w=tensor((2,), (-1,), offset=1)), "impossible shape"),
    "negative size": (items(w=tensor((-2,))), "impossible shape"),
    "size beyond all": (items(w=tensor((0, 1 << 62), (1, 1))), "impossible shape"),
    "strides missing": (items(w=tensor((2, 1), (1,))), "2 sizes and 1 strides"),
    "expanded": (items(w=tensor((1 << 30,), (0,))), "unfold to much more"),
    "expanded twice": (items(w=tensor((1 << 20, 1 << 20), (0, 0))), "unfold to much more"),
    "a thousand views": (
        b"}(" + b"".join(text(f"w{n}") + tensor((1 << 16,), (0,)) for n in range(1000)) + b"u",
        "unfold to much more",
    ),
    "storage claims more": (items(w=tensor((2,), source=storage(3))), "another size"),
    "storage of another type": (
        items(w=tensor((2,), source=storage(2, "DoubleStorage"))), "another size"
    ),
    "storage missing": (items(w=tensor((2,), source=storage(2, key="7"))), "7 is missing"),
    "storage of another folder": (
        items(w=tensor((2,), source=storage(2, key="../data.pkl"))), "is missing"
    ),
    "storage of no type": (
        items(w=tensor((2,), source=storage(2, "UntypedStorage"))), "UntypedStorage"
    ),
    "persistent text": (items(w=text("storage") + b"Q"), "storage where none belongs"),
    # the machine itself
    "empty stack": (b"0", "not a checkpoint, or damaged"),
    "no mark": (b"t", "not a checkpoint, or damaged"),
    "memo that is not there": (b"h\x63", "not a checkpoint, or damaged"),
    "name that is no text": (b"NN\x93", "a name that is no text"),
    "name of code by a later protocol": (
        b"\x8c\x02os\x8c\x06system\x93", "would run code when loaded (os.system)"
    ),
    "long bytes that are not there": (b"\x8e" + b"\xff" * 7 + b"\x7f", "damaged"),
    "item of no set": (b"](N\x90", "items of no set"),
    "set of a list": (b"\x8f(]\x90", "keys of type list"),
    "extension": (b"\x82\x01", "not a checkpoint, or damaged"),
    "item of no dict": (b"]" + text("a") + b"Ns", "items of no dictionary"),
    "item of no list": (b"}Na", "items of no list"),
}  # fmt: skip


def loaded_in_child(paths: list[Path]) -> list[tuple[object, float]]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", CHILD.format(room=ROOM), *map(str, paths)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, (done.returncode, done.stdout[-500:], done.stderr[-2000:])
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def test_hostile_pickles_are_refused_within_bounds(tmp_path):
    paths = [write_zip(tmp_path / f"{n}.pt", pickled) for n, (pickled, _) in REFUSED.items()]
    found = loaded_in_child(paths)
    assert len(found) == len(paths)
    for path, (_, expected), (message, seconds) in zip(paths, REFUSED.values(), found, strict=True):
        assert isinstance(message, str), f"{path.stem}: accepted"
        assert message.startswith(f"{path}: "), message
        assert expected in message
        assert "\n" not in message
        assert len(message) < 400 + len(str(path))
        assert seconds < 60, path.stem


def hostile_archives(folder: Path) -> dict[Path, str]:
    """Archive and files of the older format whose frame lies, not their pickle."""
    good = checkpoint()
    made = {
        write_zip(folder / "compressed.pt", good, compression=zipfile.ZIP_DEFLATED): "compressed",
        write_zip(
            folder / "bomb.pt", good, compression=zipfile.ZIP_DEFLATED, bomb=bytes(500 << 20)
        ): "compressed records",
        write_zip(folder / "lzma.pt", good, compression=zipfile.ZIP_LZMA): "compressed records",
    }
    twice = folder / "twice.pt"
    write_zip(twice, good)
    with warnings.catch_warnings(), zipfile.ZipFile(twice, "a") as archive:
        warnings.simplefilter("ignore")
        archive.writestr("archive/data/0", bytes(8))
    made[twice] = "holds a name twice"
    # every record is the same megabyte of the file: the directory alone makes 200 of it
    overlapping = folder / "overlapping.pt"
    with zipfile.ZipFile(overlapping, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + good + b".")
        archive.writestr("archive/data/0", bytes(1 << 20))
        first = archive.getinfo("archive/data/0")
        for number in range(1, 200):
            copied = zipfile.ZipInfo(f"archive/data/{number}")
            copied.header_offset, copied.CRC = first.header_offset, first.CRC
            copied.file_size = copied.compress_size = first.file_size
            archive.filelist.append(copied)
    made[overlapping] = "claim more bytes than the file has"
    magic = whole(0x1950A86A20F9469CFC6C)
    start = b"".join(
        b"\x80\x02" + part + b"."
        for part in (magic, whole(1001), b"}" + text("little_endian") + b"\x88s")
    )
    huge = items(w=tensor((2,), source=storage(1 << 33)))
    legacy = {
        "legacy huge": (start + b"\x80\x02" + huge + b".", "larger than the file"),
        "legacy long text": (start + b"\x80\x02X\xff\xff\xff\xffabc", "damaged"),
        "legacy long line": (start + b"\x80\x02c" + b"a" * 100_000, "damaged"),
        "legacy cut": (start + b"\x80\x02" + items(w=tensor()) + b".", "damaged"),
        "legacy without magic": (b"\x80\x02" + whole(5) + b".", "none that torch wrote"),
        "legacy big": (
            start.replace(b"\x88s", b"\x89s") + b"\x80\x02" + good + b".", "big-endian",
        ),
    }  # fmt: skip
    for stem, (content, expected) in legacy.items():
        (folder / f"{stem}.pt").write_bytes(content)
        made[folder / f"{stem}.pt"] = expected
    return made


def test_hostile_archives_are_refused_within_bounds(tmp_path):
    archives = hostile_archives(tmp_path)
    for (path, expected), (message, seconds) in zip(
        archives.items(), loaded_in_child(list(archives)), strict=True
    ):
        assert isinstance(message, str), f"{path.stem}: accepted"
        assert message.startswith(f"{path}: ")
        assert expected in message
        assert seconds < 60, path.stem


def test_what_only_looks_odd_is_loaded(tmp_path):
    """Shared and strided tensors, sparse memo numbers, tied weights: all legitimate."""
    base = torch.arange(12.0)
    state = {"a": base.view(3, 4).t(), "b": base[2:5], "c": base, "d": torch.empty(0, 7)}
    for legacy in (False, True):
        torch.save({"model": state}, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
        found = read_checkpoint(tmp_path / "a.pt", "test").model
        assert all(torch.equal(found[n], t) and found[n].shape == t.shape for n, t in state.items())
        assert found["a"].untyped_storage().data_ptr() == found["c"].untyped_storage().data_ptr()
    memo = b"r\xff\xff\xff\x7f"  # number 2^31 - 1
    write_zip(tmp_path / "b.pt", items(w=tensor() + memo))
    assert list(read_checkpoint(tmp_path / "b.pt", "test").model) == ["w"]


@pytest.mark.parametrize("dtype", [
    torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.uint8, torch.bool,
    torch.int16, torch.complex64, torch.uint16, torch.uint64, torch.float8_e4m3fn,
])  # fmt: skip
def test_every_type_of_numbers_is_read_as_torch_reads_it(tmp_path, dtype):
    made = torch.tensor([0, 1, 1, 0, 1]).to(dtype)
    torch.save({"w": made}, tmp_path / "a.pt")
    found = load_safely(tmp_path / "a.pt")["w"]
    assert found.dtype is dtype
    assert found.view(torch.uint8).tolist() == made.view(torch.uint8).tolist()


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :]


def test_damage_is_found_by_the_checksums(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "a.pt"
    torch.save({"model": {"w": torch.randn(300, 300), "v": torch.randn(5)}}, path)
    whole_file = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        record = next(i for i in archive.infolist() if i.file_size == 360_000)
    start = record.header_offset + 128
    damaged = [flipped(whole_file, start + step) for step in range(0, 300_000, 33_333)]
    for block in (start, start + 65_536, start + 300_000):
        damaged.append(whole_file[:block] + bytes(4096) + whole_file[block + 4096 :])
    for at in (
        whole_file.index(b"FloatStorage"),
        whole_file.index(b"3\n", whole_file.index(b"a/version")),
    ):
        damaged.append(flipped(whole_file, at))  # the pickle, and a record that nothing reads
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"damaged"):
            load_safely(path)
    path.write_bytes(whole_file)
    assert zlib.crc32(bytes(load_safely(path)["model"]["w"].numpy())) == record.CRC


OTHER_FILES = {
    "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n": "a Git LFS pointer",
    "\n <!DOCTYPE html><html>404</html>": "an HTML or XML page, not a checkpoint",
    '<?xml version="1.0"?><Error>AccessDenied</Error>': "an HTML or XML page",
    "": "it is empty",
    "PK\x05\x06" + "\0" * 18: "an empty zip archive",
    "\x1f\x8b\x08" + "\0" * 50: "a gzip archive",
    "BZh91AY": "a bzip2 archive",
    "\0" * 257 + "ustar" + "\0" * 300: "a tar archive",
    "\x40" + "\0" * 7 + '{"weight": {"dtype": "F32"' + " " * 100: "a safetensors file",
    "\x89HDF\r\n": "an HDF5 file",
    "{\"model\": 1}": "not a checkpoint, or damaged",
}  # fmt: skip


@pytest.mark.parametrize(("content", "expected"), OTHER_FILES.items())
def test_what_is_no_checkpoint_is_named(tmp_path, content, expected):
    path = tmp_path / "a.pt"
    path.write_bytes(content.encode("latin1"))
    with pytest.raises(CheckpointError) as caught:
        load_safely(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert expected in str(caught.value)


def test_other_archives_are_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("ckpt/a.pt", b"1")
        archive.writestr("README.txt", b"2")
    with pytest.raises(CheckpointError, match=r"something else \(ckpt/a\.pt, README\.txt\)"):
        load_safely(tmp_path / "a.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "j.pt")
    with pytest.raises(CheckpointError, match="a TorchScript archive"):
        load_safely(tmp_path / "j.pt")


@pytest.mark.parametrize("odd", ["a\nb", "a\x1b[31mb", "a\ud800b", "a" * 5000])
def test_names_from_a_file_do_not_break_the_message(tmp_path, odd):
    model = torch.nn.Linear(1, 1)
    more = {odd: torch.zeros(1)} | model.state_dict()
    path = tmp_path / "a.pt"
    for content, expected in (
        (more, r"made for another model: 1 tensors unexpected \(a"),
        ({odd: 1}, "holds no model: expected tensors by name, found: a"),
        ({odd: {"w": torch.zeros(1)}}, "there are tensors by name under a"),
    ):
        torch.save(content, path)
        with pytest.raises(CheckpointError, match=expected) as caught:
            load_into(model, read_checkpoint(path, "test"))
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 700
    write_zip(path, name("a", "b\x1bc"))
    with pytest.raises(CheckpointError, match=r"run code when loaded \(a\.b\?c\)"):
        load_safely(path)
