"""Scalars of YAML configs: the value that YAML 1.2's core schema gives them, or a refusal."""

from __future__ import annotations

import math
import re
from typing import Any

from fuzzing import folder, fuzz, in_child, refusals
from hypothesis import strategies as st

from ladon.config import load_config

# What PyYAML's YAML 1.1 reads otherwise, and users' published files rely on.
OF_YAML_1_1 = {"yes": True, "no": False, "on": True, "off": False}


# Not a scalar at all where it stands.
NO_SCALAR = re.compile(r"\A(-|--+|\.\.\.)?\Z|:\Z|\A---|\A%")


def core(text: str) -> Any:
    """What YAML 1.2.2, 10.3.2 says of a plain scalar."""
    if re.fullmatch(r"null|Null|NULL|~|", text):
        return None
    if re.fullmatch(r"true|True|TRUE|false|False|FALSE", text):
        return text.lower() == "true"
    if re.fullmatch(r"[-+]?[0-9]+", text):
        return int(text)
    if re.fullmatch(r"0o[0-7]+", text):
        return int(text[2:], 8)
    if re.fullmatch(r"0x[0-9a-fA-F]+", text):
        return int(text[2:], 16)
    if re.fullmatch(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", text):
        return float(text)
    if re.fullmatch(r"[-+]?(\.inf|\.Inf|\.INF)", text):
        return -math.inf if text[0] == "-" else math.inf
    if re.fullmatch(r"\.nan|\.NaN|\.NAN", text):
        return math.nan
    return text


def right(text: str) -> list[Any]:
    """The values that a scalar may have."""
    found = [core(text)]
    if text.lower() in OF_YAML_1_1 and text in (text.lower(), text.title(), text.upper()):
        found.append(OF_YAML_1_1[text.lower()])
    if "_" in text and re.fullmatch(r"[-+0-9._eExXa-fA-F]+", text):  # digits in groups
        found.append(core(text.replace("_", "")))
    if re.fullmatch(r"[-+]?0b[01_]+", text):
        found.append(int(text.replace("_", ""), 2))
    if re.fullmatch(r"[-+]0x[0-9a-fA-F_]+", text):
        found.append(int(text.replace("_", ""), 16))
    return found


def same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and repr(one) == repr(other)


NUMBERS = st.from_regex(
    r"\A[-+]?(0|0o|0x|0b)?[0-9]{0,3}([._:][0-9]{0,2}){0,2}([eE][-+]?[0-9]{1,2})?\Z"
)
WORDS = st.sampled_from(
    [
        "null",
        "Null",
        "NULL",
        "~",
        "nULL",
        "true",
        "True",
        "TRUE",
        "tRUE",
        "false",
        "False",
        "y",
        "Y",
        "n",
        "N",
        "yes",
        "Yes",
        "YES",
        "no",
        "No",
        "on",
        "On",
        "ON",
        "off",
        ".inf",
        "-.inf",
        "+.INF",
        ".Inf",
        ".nan",
        ".NaN",
        "inf",
        "nan",
        "NaN",
        "2012-01-01",
        "2012-01-01T10:00:00Z",
        "1:30",
        "190:20:30.15",
        "=",
        "<<",
        "0o17",
        "017",
        "08",
        "0x1F",
        "0b11",
        "1_000",
        "1e3",
        "1E-3",
        ".5e3",
        "1.e3",
        "+1",
        "-0",
        "0.",
        ".",
        "-",
        "+",
        "1e400",
    ]
)
PLACES = {"a: {}\n": (), "a: [1, {}]\n": (1,), "a: {{b: {}}}\n": ("b",), "a:\n  - {} # x\n": (0,)}
PLAIN = st.from_regex(r"\A[A-Za-z0-9._+~=-]{1,6}\Z")


@fuzz(st.tuples(st.one_of(NUMBERS, WORDS, PLAIN), st.sampled_from(sorted(PLACES))), 800)
def scalars(case):
    text, place = case
    if NO_SCALAR.search(text):
        return
    path = folder() / "c.yaml"
    path.write_text(place.format(text))
    with refusals() as said:
        value = load_config(path).get("a")
        for key in PLACES[place]:
            value = value[key]
        assert any(same(value, known) for known in right(text)), (text, value, right(text))
    if said:
        assert said[0].startswith(f"{path}:"), said


LINES = st.sampled_from(
    [
        "a: 1",
        "b: &x {c: [1, 2]}",
        "d: *x",
        "<<: *x",
        "_base_: c.yaml",
        "_base_: [no.yaml]",
        "e: ${a}",
        "e: ${e}",
        "f: !join [a, *x]",
        "f: !import_get {key: os}",
        "g: |",
        "  - x",
        "- y",
        "? [1]",
        ": 2",
        "train: {stage1: {num_epochs: 010}}",
        "train: 3",
        "datasets: [1]",
        "models: {model: 7}",
        "h: {}",
        "data_root: ",
        "data_root: [1]",
        "data_root: ${h}",
        "test: {a: *nothing}",
        "'i: 1",
        "%YAML 1.1",
        "---",
        "teacher_model: 1",
        "student_model: [",
        "epoch_to_update: x",
        "j: !!python/name:os",
        "\t",
        "k: \x00",
    ]
)
TEXTS = st.one_of(
    st.lists(LINES, max_size=5).map(lambda lines: "\n".join(lines).encode()),
    st.binary(max_size=40),
    st.text(
        alphabet=st.sampled_from("a:1-[]{}&*!|>'\"%@`#?,<$ \n\té\ud7ff\U0001f600"), max_size=30
    ).map(str.encode),
    st.tuples(
        st.sampled_from([b"[", b"{a: ", b"- ", b"? ", b"a:\n ", b"!join ["]),
        st.sampled_from([50, 3000]),
    ).map(lambda pair: pair[0] * pair[1]),
)


@fuzz(TEXTS, 300)
def files(content):
    path = folder() / "c.yaml"
    path.write_bytes(content)
    with refusals() as said:
        load_config(path)
    if said:
        assert str(path) in said[0]


def test_config_files(tmp_path):
    in_child(__name__, tmp_path)
