"""rANS streams of fixed tables and symbols, and the implementations that must write them.

`data_streams/compressai.json` was written by CompressAI 1.2.8's `ans.RansEncoder`
(`encode_with_indexes`), once, from what `python tests/golden_streams.py` draws: it prints the file.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ladon.codec import rans_python
from ladon.codec.rans_native import SOURCE, NativeRans
from ladon.codec.streams import LOOKUP_SIZE, WORDS_PER_SYMBOL, check_rows

FILE = Path(__file__).parent / "data_streams" / "compressai.json"


@dataclass(frozen=True, eq=False)
class Case:
    """Symbols and their tables, as `ladon.codec.rans` has them."""

    symbols: np.ndarray
    rows: np.ndarray | None
    cdf: np.ndarray
    length: np.ndarray
    offset: np.ndarray

    @property
    def tables(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.cdf, self.length, self.offset

    def encoded(self, engine: Any) -> np.ndarray:
        """The words that an implementation writes."""
        words = np.full(WORDS_PER_SYMBOL * self.symbols.size + 2, 0xDEADBEEF, np.uint32)
        first = engine.encode(self.symbols, self.rows, *self.tables, words)
        assert 0 <= first < len(words)
        return words[first:].copy()

    def decoded(self, engine: Any, words: np.ndarray) -> tuple[int, np.ndarray]:
        """The status and the symbols that an implementation reads."""
        lookup = np.zeros((len(self.cdf), LOOKUP_SIZE), np.int32)
        engine.build_lookup(self.cdf, self.length, lookup)
        found = np.zeros_like(self.symbols)
        words = np.ascontiguousarray(words, np.uint32)
        return engine.decode(words, self.rows, *self.tables, lookup, found), found


def golden() -> dict[str, tuple[Case, np.ndarray]]:
    """Cases, and the words that CompressAI made of them."""
    made = {}
    for name, plain in json.loads(FILE.read_text()).items():
        words = np.array([int(word, 16) for word in plain.pop("words").split()], np.uint32)
        arrays = {key: None if v is None else np.array(v, np.int32) for key, v in plain.items()}
        if arrays["rows"] is not None:
            arrays["rows"] = arrays["rows"].astype(np.uint8)
        made[name] = Case(**arrays), words
    return made


def random_case(rng: np.random.Generator, *, has_rows: bool, extreme: bool = False) -> Case:
    """Small tables of all shapes, and symbols of which some are outside of them.

    Args:
        rng: draws.
        has_rows: each symbol names its table.
        extreme: symbols up to what 32 bits hold, where CompressAI's encoder never ends.
    """
    channels, count = (int(n) for n in rng.integers(1, 7, 2))
    number = int(rng.integers(1, 9)) if has_rows else channels
    width = int(rng.integers(3, 40))
    length = rng.integers(3, width + 1, number).astype(np.int32)
    cdf = np.zeros((number, width), np.int32)
    for row, size in zip(cdf, length, strict=True):
        inner = rng.choice(np.arange(1, 1 << 16), size - 2, replace=False)
        row[1 : size - 1] = np.sort(inner)
        row[size - 1] = 1 << 16
    offset = rng.integers(-20, 5, number).astype(np.int32)
    spread = float(rng.choice([0.5, 8, 60, 1e4]))
    symbols = rng.normal(-5, spread, (channels, count)).round().clip(-(2**26), 2**26)
    if extreme:
        at = rng.random(symbols.shape) < 0.3
        symbols[at] = rng.choice([-(2**31), 2**31 - 1, -(2**28), 2**30], int(at.sum()))
    rows = rng.integers(0, number, symbols.shape).astype(np.uint8) if has_rows else None
    case = Case(symbols.astype(np.int32), rows, cdf, length, offset)
    check_rows(cdf.astype(np.int64), length.astype(np.int64), offset.astype(np.int64), "row")
    return case


def damaged_words(words: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A stream with something wrong in it, or made up altogether."""
    kind = int(rng.integers(5))
    if kind == 0:
        words = words.copy()
        words[rng.integers(len(words))] ^= np.uint32(1 << int(rng.integers(32)))
    elif kind == 1:
        words = words[: rng.integers(len(words))]
    elif kind == 2:
        words = np.concatenate([words, words[: rng.integers(1, 3)]])
    elif kind == 3:
        words = rng.integers(0, 1 << 32, int(rng.integers(0, 30)), dtype=np.uint32)
    else:
        words = np.roll(words, 1)
    return words


@cache
def native(folder: Path) -> NativeRans:
    """The C implementation, compiled into a folder; skips the test without a compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler (cc) to build rans.c with")
    path = folder / "librans-test.so"
    flags = ["-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-nostdlib"]
    subprocess.run([compiler, *flags, "-o", path, SOURCE], check=True, timeout=60)
    return NativeRans(path)


def engine(name: str, folder: Path) -> Any:
    """An implementation by its name."""
    if name == "numba":
        return pytest.importorskip("ladon.codec.rans")
    return native(folder) if name == "C" else rans_python


def _drawn() -> Iterator[tuple[str, Case]]:
    rng = np.random.default_rng(13)
    for number in range(4):
        yield f"by channel {number}", random_case(rng, has_rows=False)
        yield f"by symbol {number}", random_case(rng, has_rows=True)
    sure = np.array([[0, 1, 65535, 65536]], np.int32)
    ones = np.ones(1, np.int32)
    yield "nearly certain", Case(np.zeros((1, 50), np.int32), None, sure, 4 * ones, -ones)


def _main() -> None:
    """Print the file."""
    from compressai import ans

    made = {}
    for name, case in _drawn():
        shape = case.symbols.shape
        channel = np.broadcast_to(np.arange(shape[0])[:, None], shape)
        indexes = channel if case.rows is None else case.rows
        tables = [case.cdf.tolist(), case.length.tolist(), case.offset.tolist()]
        flat = case.symbols.reshape(-1).tolist(), indexes.reshape(-1).tolist()
        coded = ans.RansEncoder().encode_with_indexes(*flat, *tables)
        words = " ".join(f"{word:08x}" for word in np.frombuffer(coded, "<u4"))
        plain = {k: None if v is None else v.tolist() for k, v in vars(case).items()}
        made[name] = {**plain, "words": words}
    lines = (f"{json.dumps(name)}: {json.dumps(case)}" for name, case in made.items())
    print("{\n" + ",\n".join(lines) + "\n}")  # noqa: T201


if __name__ == "__main__":
    _main()
