"""Three implementations of one stream: numba's kernels, C, Python."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from golden_streams import Case, damaged_words, engine, golden, native, random_case

from ladon.codec import rans_python
from ladon.codec.rans_native import SOURCE, NativeRans, library_name
from ladon.codec.streams import BAD_ROW, NO_ROOM, REASONS
from ladon.errors import LadonError

ENGINES = ["numba", "C", "Python"]
GOLDEN = golden()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("native")


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("case", GOLDEN)
def test_streams_are_compressais(name, case, folder):
    made, words = GOLDEN[case]
    coder = engine(name, folder)
    assert made.encoded(coder).tolist() == words.tolist()
    status, found = made.decoded(coder, words)
    assert status == 0
    assert np.array_equal(found, made.symbols)


def drawn(count: int, seed: int):
    """Cases with a stream that is right, or wrong in some way; what numba makes of both."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        case = random_case(rng, has_rows=number % 2 == 1, extreme=number % 3 == 0)
        words = case.encoded(engine("numba", Path()))
        given = words if number % 4 == 0 else damaged_words(words, rng)
        yield case, words, given, case.decoded(engine("numba", Path()), given)


@pytest.mark.parametrize("name", ENGINES[1:])
def test_all_write_the_same_words_and_refuse_the_same_ones(name, folder):
    coder, reasons = engine(name, folder), []
    for case, words, given, (status, symbols) in drawn(1500, 0):
        assert np.array_equal(case.encoded(coder), words)
        found = case.decoded(coder, given)
        assert found[0] == status
        if status == 0:
            assert np.array_equal(found[1], symbols)
        reasons.append(status)
    assert {0, 1, 2, 3} <= set(reasons), "each reason has come up"


@pytest.mark.parametrize("name", ENGINES[1:])
def test_rows_without_a_table_and_too_little_room_are_refused(name, folder):
    """numba's kernels do not look: `GaussianCoder` and the buffers' sizes answer for it."""
    coder, rng = engine(name, folder), np.random.default_rng(1)
    case = random_case(rng, has_rows=True)
    words = case.encoded(coder)
    room = np.empty(2 * case.symbols.size + 2, np.uint32)
    assert coder.encode(case.symbols, case.rows, *case.tables, room[1:]) == -NO_ROOM
    bad = Case(case.symbols, np.full_like(case.rows, len(case.cdf)), *case.tables)
    assert coder.encode(bad.symbols, bad.rows, *bad.tables, room) == -BAD_ROW
    assert bad.decoded(coder, words)[0] == BAD_ROW
    assert {BAD_ROW, NO_ROOM} <= REASONS.keys()
    fewer = [table[:1] for table in case.tables]
    two = np.zeros((2, 3), np.int32)
    assert Case(two, None, *fewer).decoded(coder, words)[0] == BAD_ROW


def test_c_is_given_arrays_as_it_reads_them(folder):
    coder, case = native(folder), random_case(np.random.default_rng(2), has_rows=True)
    words = np.empty(2 * case.symbols.size + 2, np.uint32)
    for symbols in (case.symbols.astype(np.int64), np.repeat(case.symbols, 2, 1)[:, ::2]):
        with pytest.raises(ValueError, match="not int32 in a row"):
            coder.encode(symbols, case.rows, *case.tables, words)
    with pytest.raises(ValueError, match="rows of shape"):
        coder.encode(case.symbols, case.rows[:, :-1].copy(), *case.tables, words)
    with pytest.raises(ValueError, match="a look-up of shape"):
        coder.build_lookup(case.cdf, case.length, np.zeros((len(case.cdf), 1000), np.int32))


def test_a_library_that_cannot_be_used_is_named(tmp_path):
    broken = tmp_path / library_name()
    with pytest.raises(LadonError, match=rf"^{broken}: cannot be loaded"):
        NativeRans(broken)
    broken.write_bytes(b"no library")
    with pytest.raises(LadonError, match="cannot be loaded"):
        NativeRans(broken)
    assert library_name() == f"librans-{platform.machine()}.so"


def compiled(compiler: str, path: Path, *flags: str) -> Path:
    """The driver of `rans.c`; skips the test where there is no such compiler."""
    if shutil.which(compiler) is None:
        pytest.skip(f"there is no {compiler}")
    driver = Path(__file__).with_name("rans_driver.c")
    command = [compiler, "-std=c99", "-g", *flags, f"-I{SOURCE.parent}", "-o", path, driver]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode and flags and "cannot find" in done.stderr:
        pytest.skip(f"{compiler} has not what {' '.join(flags)} needs")
    assert done.returncode == 0, done.stderr
    return path


def fed(case: Case, given: np.ndarray) -> bytes:
    """A case as the driver reads it."""
    channels, count = case.symbols.shape
    head = np.array([case.rows is not None, channels, count, *case.cdf.shape, len(given)], "<i8")
    parts = [head, case.length, case.offset, case.cdf, case.symbols]
    parts += [] if case.rows is None else [case.rows]
    return b"".join(part.tobytes() for part in (*parts, given.astype("<u4")))


def runs_like_numba(command: list, cases: list) -> None:
    """The driver writes and reads what numba's kernels do."""
    data = b"".join(fed(case, given) for case, _, given, _ in cases)
    done = subprocess.run(command, input=data, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-3000:]
    assert done.stderr == b""
    out, at = done.stdout, 0
    for case, words, _, (status, symbols) in cases:
        number, found = np.frombuffer(out, "<i8", 2, at).tolist()
        assert (number, found) == (len(words), status)
        at += 16
        assert np.array_equal(np.frombuffer(out, "<u4", number, at), words)
        at += 4 * number
        decoded = np.frombuffer(out, "<i4", case.symbols.size, at)
        assert status or np.array_equal(decoded, symbols.reshape(-1))
        at += 4 * case.symbols.size
    assert at == len(out)


def test_c_touches_nothing_beside_its_buffers(tmp_path):
    """Under AddressSanitizer and UndefinedBehaviorSanitizer, which end it at the first fault."""
    flags = ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    driver = compiled("cc", tmp_path / "driver", *flags)
    runs_like_numba([driver], list(drawn(4000, 3)))


def test_c_on_aarch64(tmp_path):
    driver = compiled("aarch64-linux-gnu-gcc", tmp_path / "driver", "-O2", "-static")
    qemu = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    if qemu is None and platform.machine() != "aarch64":
        pytest.skip("there is no qemu-aarch64 (Debian's qemu-user)")
    golden_ones = [(c, w, w, (0, c.symbols)) for c, w in GOLDEN.values()]
    runs_like_numba([qemu, driver] if qemu else [driver], golden_ones + list(drawn(1500, 4)))


def test_python_takes_latents_of_any_size():
    empty = Case(np.zeros((1, 0), np.int32), None, *GOLDEN["nearly certain"][0].tables)
    words = empty.encoded(rans_python)
    assert words.tolist() == [1 << 31, 0]
    assert empty.decoded(rans_python, words)[0] == 0
