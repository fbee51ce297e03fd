"""The data root, finding files, the Config's own methods, and the dump."""

import logging
from pathlib import Path

import pytest
from data_config.helpers import GOOD, error_of, load, write

from ladon.config import LazyCall, find_config_files, load_config
from ladon.errors import ConfigError

ROOTS = """
    n: &n coco2017
    join: !join ['~/datasets/', *n]
    plain: ~/datasets
    legacy: ~/dataset/x
    ref: ${data_root}/y
    inside: !import_call {key: os.getcwd, init: {kwargs: {root: ~/datasets/z, other: ~/datasetsx}}}
"""


@pytest.fixture(autouse=True)
def no_variable(monkeypatch):
    monkeypatch.delenv("LADON_DATA_ROOT", raising=False)


def roots(config):
    names = ("data_root", "join", "plain", "legacy", "ref", "inside.init.kwargs.root")
    return [config.get(name) for name in names]


def test_the_default_root_leaves_a_file_as_it_is(tmp_path):
    assert roots(load(tmp_path, ROOTS)) == [
        "~/datasets",
        "~/datasets/coco2017",
        "~/datasets",
        "~/dataset/x",
        "~/datasets/y",
        "~/datasets/z",
    ]


@pytest.mark.parametrize("how", ["argument", "variable", "key", "set", "slash"])
def test_a_moved_root_is_followed_everywhere(tmp_path, monkeypatch, how):
    text, options = ROOTS, {}
    if how == "argument":
        monkeypatch.setenv("LADON_DATA_ROOT", "/other")
        text, options = ROOTS + "    data_root: /third\n", {"data_root": "/data"}
    elif how == "variable":
        monkeypatch.setenv("LADON_DATA_ROOT", "/data")
        text = ROOTS + "    data_root: /third\n"
    elif how == "key":
        text = ROOTS + "    data_root: ${base}a\n    base: /dat\n"
    elif how == "set":
        options = {"assignments": ["data_root=/data"]}
    else:
        options = {"data_root": "/data/"}
    config = load(tmp_path, text, **options)
    assert roots(config) == ["/data", "/data/coco2017", "/data", "/data/x", "/data/y", "/data/z"]
    assert config.get("inside.init.kwargs.other") == "~/datasetsx"


def test_where_the_root_came_from(tmp_path, monkeypatch):
    assert load(tmp_path, ROOTS, data_root="/d").where("data_root") == "--data_root"
    monkeypatch.setenv("LADON_DATA_ROOT", "/e")
    assert load(tmp_path, ROOTS).where("data_root") == "LADON_DATA_ROOT"


def test_odd_roots(tmp_path):
    assert load(tmp_path, ROOTS, data_root="/a/${n}").get("ref") == "/a/${n}/y"
    assert load(tmp_path, ROOTS, data_root="/").get("join") == "/coco2017"
    assert load(tmp_path, "data_root: ~/datasets/big\na: ~/datasets/x").get("a") == (
        "~/datasets/big/x"
    )
    assert "c.yaml:1: data_root must be the path of a folder" in error_of(tmp_path, "data_root: 3")


def test_find_config_files(tmp_path):
    for name in ("b.yaml", "a/x.yml", "a/_base_/hidden.yaml", "_base_/hidden.yaml", "a/notes.txt"):
        write(tmp_path, "a: 1", name)
    found = [p.relative_to(tmp_path).as_posix() for p in find_config_files([tmp_path])]
    assert found == ["a/x.yml", "b.yaml"]
    twice = find_config_files([tmp_path / "b.yaml", tmp_path])
    assert [p.name for p in twice] == ["b.yaml", "x.yml"]
    # A path that is named is taken, even where a walk would leave it out.
    assert len(find_config_files([tmp_path / "_base_/hidden.yaml"])) == 1
    assert len(find_config_files([tmp_path / "_base_"])) == 1
    with pytest.raises(ConfigError, match=r"no such file or folder: .*c\.yaml; did you mean .b\.y"):
        find_config_files([tmp_path / "c.yaml"])


def test_get_section_and_membership(tmp_path):
    config = load(tmp_path, "a: {b: 1, none: , l: [1, {c: 2}]}\nempty:\n1: one\n")
    assert config.path == Path(tmp_path / "c.yaml")
    assert config.get("a.l.1.c") == 2
    assert config.get("a.l.2") is None
    assert config.get("a.x", 5) == 5
    assert config.get("a.b.x", 5) == 5
    assert config.get("a.none", 5) is None
    assert config.get("1") == "one"
    assert "a.b" in config
    assert "a.none" in config
    assert "a.x" not in config
    assert config.section("empty") == config.section("missing.section") == {}
    with pytest.raises(ConfigError, match=r"c\.yaml:1: a\.b must be a mapping, not a number"):
        config.section("a.b")


def test_sections_are_copies(tmp_path):
    config = load(tmp_path, "a: {b: {c: [1]}}")
    section = config.section("a")
    assert type(section) is dict
    assert type(section["b"]["c"]) is list
    section["b"]["c"].append(2)
    assert config.get("a.b.c") == [1]


@pytest.mark.parametrize("beta", ["true", "'0.3'", "0", "-1", ".inf", ".nan", "[1]"])
def test_a_beta_that_is_no_number(tmp_path, beta):
    with pytest.raises(ConfigError, match=r"c\.yaml:1: beta must be a number above 0"):
        _ = load(tmp_path, f"beta: {beta}").beta


def test_no_beta_no_name(tmp_path):
    config = load(tmp_path, "a: 1")
    assert config.beta is None
    assert config.name is None
    assert config.dependencies == []


def resolved(config):
    """All of a config as plain data; tagged nodes as (tag, contents), so that two loads compare."""

    def tell(value):
        if isinstance(value, LazyCall):
            return value.tag, tell(config.resolver.resolve(value.value))
        if isinstance(value, dict):
            is_kept = {k: k in ("_own",) or not str(k).startswith("_") for k in value}
            return {k: tell(v) for k, v in value.items() if is_kept[k]}
        return [tell(item) for item in value] if isinstance(value, list) else value

    return tell(config.resolver.resolve(config.root))


def test_dump_round_trip(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    config = load_config(GOOD, assignments=["beta=5", "train.stage1.num_epochs=7"])
    text = config.dump()
    again = load(tmp_path, text)
    assert resolved(again) == resolved(config)
    assert again.dump() == text
    assert "name: tiny-beta5\n" in text
    assert "_weights" not in text
    assert "${" not in text
    assert "lr: 0.001" in text


def test_dump_of_difficult_values(tmp_path):
    config = load(
        tmp_path,
        """
        _carrier: &x !import_call {_name: q, key: probe.make, init: {kwargs: {_own: 1, n: '${n}'}}}
        n: 3
        uses: [*x, {again: *x}]
        texts: ['1e-3', '2012-01-01', 'yes', '', ' ', 'a: b', '$${n}', "line\\nbreak", '~', é]
        numbers: [1e-05, 1.0e+20, .inf, 10, true, null]
        empty: [{}, []]
        joined: !join ['a', '${n}']
        """,
    )
    text = config.dump()
    again = load(tmp_path, text)
    assert resolved(again) == resolved(config)
    assert again.get("uses.0") is again.get("uses.1.again")
    assert again.get("uses.0").value["init"]["kwargs"] == {"_own": 1, "n": 3}
    assert again.get("texts.6") == "${n}"
    assert "_carrier" not in text
    assert "_name" not in text
    assert "joined: a3" in text
