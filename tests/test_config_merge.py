"""Layers: bases, --json, --set, and what is shared when one of them changes a value."""

import pytest
from data_config.helpers import error_of, load, write

from ladon.config import LazyCall, load_config
from ladon.errors import ConfigError

SHARED = """
    a: &data !import_call
      key: fractions.Fraction
      init: {kwargs: {numerator: 1, denominator: 2}}
    b: {c: *data}
    kwargs: &kwargs {mean: [1, 2], std: 3}
    first: {kwargs: *kwargs}
    second: {kwargs: *kwargs}
"""


def test_bases_in_order_and_recursively(tmp_path):
    write(tmp_path, "a: 1\nm: {x: 1, y: [1, 2], z: {q: 1}}", "_base_/one.yaml")
    write(tmp_path, "_base_: one.yaml\na: 2\nm: {y: [3]}", "_base_/two.yaml")
    write(tmp_path, "b: 5\nm: {x: 7}", "_base_/three.yaml")
    config = load(
        tmp_path,
        """
        _base_: [_base_/two.yaml, ./_base_/three.yaml]
        m: {z: null, new: 1}
        """,
    )
    assert config.section("m") == {"x": 7, "y": [3], "z": None, "new": 1}
    assert config.get("a") == 2
    assert config.get("b") == 5
    assert "_base_" not in config
    assert config.where("a") == f"{tmp_path}/_base_/two.yaml:2"
    assert config.where("m.x") == f"{tmp_path}/_base_/three.yaml:2"
    assert config.where("m.new") == f"{tmp_path}/c.yaml:3"


def test_base_errors(tmp_path):
    write(tmp_path, "_base_: two.yaml", "one.yaml")
    write(tmp_path, "a: 1\n_base_: one.yaml", "two.yaml")
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "one.yaml")
    assert str(caught.value).replace(f"{tmp_path}/", "") == (
        "two.yaml:2: _base_ files name each other in a circle: one.yaml -> two.yaml -> one.yaml"
    )
    message = error_of(tmp_path, "a: 1\n_base_: ones.yaml")
    assert message == 'c.yaml:2: _base_ file not found: ones.yaml; did you mean "one.yaml"?'
    message = error_of(tmp_path, "_base_: configs/x.yaml")
    assert message == (
        "c.yaml:1: _base_ file not found: configs/x.yaml "
        "(paths are relative to the file that names them)"
    )
    assert "c.yaml:1: _base_ must be a path or a list" in error_of(tmp_path, "_base_: 3")
    assert "must be a path or a list" in error_of(tmp_path, "_base_: [1]")
    assert "circle: c.yaml -> c.yaml" in error_of(tmp_path, "_base_: c.yaml")


def test_one_base_may_be_reached_twice(tmp_path):
    write(tmp_path, "r: 1\nl: !import_call {key: fractions.Fraction}", "root.yaml")
    write(tmp_path, "_base_: root.yaml\nl: {init: {args: [3]}}", "x.yaml")
    write(tmp_path, "_base_: root.yaml\ny: 2", "y.yaml")
    config = load(tmp_path, "_base_: [x.yaml, y.yaml]")
    assert config.build(config.get("l")) == 3


def test_a_mapping_merges_into_a_tagged_node(tmp_path):
    write(tmp_path, SHARED, "base.yaml")
    config = load(tmp_path, "_base_: base.yaml\na: {init: {kwargs: {denominator: 4}}}\n")
    assert isinstance(config.get("a"), LazyCall)
    assert config.get("a") is config.get("b.c")
    assert config.build(config.get("b.c")) == 0.25


def test_tagged_over_tagged(tmp_path):
    write(tmp_path, SHARED, "base.yaml")
    same = load(
        tmp_path,
        """
        _base_: base.yaml
        a: !import_call {key: fractions.Fraction, init: {kwargs: {denominator: 8}}}
        """,
    )
    assert same.build(same.get("b.c")) == 0.125
    no_key = load(tmp_path, "_base_: base.yaml\na: !import_call {init: {kwargs: {numerator: 3}}}\n")
    assert no_key.build(no_key.get("a")) == 1.5
    other = load(
        tmp_path,
        "_base_: base.yaml\na: !import_call {key: decimal.Decimal, init: {args: ['7']}}\n",
    )
    assert other.build(other.get("a")) == 7
    assert other.build(other.get("b.c")) == 0.5  # the alias keeps the object it named
    tag = load(tmp_path, "_base_: base.yaml\na: !import_get {key: fractions.Fraction}\n")
    assert tag.get("a").tag == "!import_get"


def test_delete_replaces_instead_of_merging(tmp_path):
    write(tmp_path, SHARED, "base.yaml")
    config = load(
        tmp_path,
        """
        _base_: base.yaml
        a: {init: {kwargs: {_delete_: true, numerator: 5}}}
        first: {_delete_: true, x: 1}
        second: {_delete_: false, x: 1}
        """,
    )
    assert config.build(config.get("a")) == 5
    assert config.section("first") == {"x": 1}
    assert config.section("second") == {"kwargs": {"mean": [1, 2], "std": 3}, "x": 1}


def test_plain_data_is_copied_where_it_changes(tmp_path):
    config = load(
        tmp_path,
        SHARED,
        overrides={"first": {"kwargs": {"std": 4}}},
        assignments=["second.kwargs.mean.0=9"],
    )
    assert config.get("first.kwargs") == {"mean": [1, 2], "std": 4}
    assert config.get("second.kwargs") == {"mean": [9, 2], "std": 3}
    assert config.get("kwargs") == {"mean": [1, 2], "std": 3}


def test_set_goes_into_tagged_nodes_and_aliases_follow(tmp_path):
    config = load(tmp_path, SHARED, assignments=["b.c.init.kwargs.denominator=5"])
    assert str(config.build(config.get("a"))) == "1/5"
    assert config.where("a.init.kwargs.denominator") == "--set"


def test_set_finds_keys_with_dots_and_slashes(tmp_path):
    text = """
        datasets:
          ilsvrc2012/val: !import_call {key: os.getcwd, init: {kwargs: {root: x}}}
          v1.2: {a: 1}
          v1: {2: 5}
    """
    config = load(
        tmp_path,
        text,
        assignments=[
            "datasets.ilsvrc2012/val.init.kwargs.root=/d",
            "datasets.v1.2.a=7",
            "datasets.v1.2.b=8",
        ],
    )
    assert config.get("datasets.ilsvrc2012/val.init.kwargs.root") == "/d"
    assert config.section("datasets.v1.2") == {"a": 7, "b": 8}


def test_set_values_are_yaml(tmp_path):
    config = load(
        tmp_path,
        "a: {b: null, l: [{x: 1}, {x: 2}]}",
        assignments=[
            "a.lr=1e-3",
            "a.list=[1, 2]",
            "a.map={x: {y: 1}}",
            "a.none=",
            "a.text=x=y",
            "a.ref=${a.lr}",
            "a.b.new.deep=true",
            "a.l.1.x=5",
            "a.get=!import_get {key: os.sep}",
        ],
    )
    section = config.section("a")
    assert section.pop("get").tag == "!import_get"
    assert section == {
        "b": {"new": {"deep": True}},
        "l": [{"x": 1}, {"x": 5}],
        "lr": 0.001,
        "list": [1, 2],
        "map": {"x": {"y": 1}},
        "none": None,
        "text": "x=y",
        "ref": 0.001,
    }


def test_precedence_json_below_set(tmp_path):
    config = load(
        tmp_path, "a: 1\nb: 1\nc: [1]", overrides={"a": 2, "b": 2, "c": [2, 3]}, assignments=["b=3"]
    )
    assert config.get("c") == [2, 3]
    assert (config.get("a"), config.get("b")) == (2, 3)
    assert (config.where("a"), config.where("b")) == ("--json", "--set")


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("a", "write it as PATH=VALUE"),
        ("=1", "path before the = is empty"),
        ("a..b=1", "has an empty piece"),
        ("a.x=1", '--set: no "x" in a: a is a number'),
        ("l.7=1", '--set: no item "7": l is a list of 2 items'),
        ("l.x=1", '--set: no item "x"'),
        ("b=[1", "--set b: not valid YAML"),
        ("b=*x", "--set b: not valid YAML"),
        ("b=!nope x", "unknown tag !nope"),
        ("_base_=x.yaml", "only a file can"),
    ],
)
def test_bad_assignments(tmp_path, assignment, message):
    assert message in error_of(tmp_path, "a: 1\nl: [1, 2]", assignments=[assignment])


def test_bad_json(tmp_path):
    assert "JSON object" in error_of(tmp_path, "a: 1", overrides=[1])
    assert "only a file can" in error_of(tmp_path, "a: 1", overrides={"_base_": "x"})
