"""`${...}` and the tags that are computed without importing anything."""

import os

import pytest
from data_config.helpers import load

from ladon.errors import ConfigError


def test_values_keep_their_type_and_text_takes_their_text(tmp_path):
    config = load(
        tmp_path,
        """
        beta: 0.32
        five: 5.0
        n: 7
        yes: true
        section: {x: ['${n}', 1]}
        keeps: ['${beta}', '${five}', '${ n }', '${on}', '${section}']
        "on": true
        text: m-${beta}-${five}-${n}-${on}
        escaped: $${n} costs $${x} or ${n}
        dollar: $5 {x}
        """,
    )
    assert config.get("keeps") == [0.32, 5.0, 7, True, {"x": [7, 1]}]
    assert config.get("text") == "m-0.32-5.0-7-true"
    assert config.get("escaped") == "${n} costs ${x} or 7"
    assert config.get("dollar") == "$5 {x}"


@pytest.mark.parametrize("beta", ["0.32", "1.28", "20.48", "5"])
def test_an_override_of_beta_changes_what_is_named_after_it(tmp_path, beta):
    text = """
        beta: 0.32
        name: fp-beta${beta}
        models: {model: {dst_ckpt: !join ['./ckpt/', '${name}', .pt], w: '${beta}'}}
        """
    config = load(tmp_path, text, assignments=[f"beta={beta}"])
    assert config.get("models.model.dst_ckpt") == f"./ckpt/fp-beta{beta}.pt"
    assert config.get("models.model.w") == float(beta)
    assert config.name == f"fp-beta{beta}"
    assert config.beta == float(beta)


def test_paths_through_lists_dotted_keys_and_references(tmp_path):
    config = load(
        tmp_path,
        """
        datasets: {coco2017/v1.0: {root: /d}, l: [{x: 3}]}
        alias: ${datasets.coco2017/v1.0}
        a: ${datasets.l.0.x}
        b: ${alias.root}/train
        lazy: !import_call {key: os.getcwd, init: {kwargs: {size: 4}}}
        c: ${lazy.init.kwargs.size}
        d: ${lazy}
        """,
    )
    assert config.get("a") == 3
    assert config.get("b") == "/d/train"
    assert config.get("alias.root") == "/d"
    assert config.get("c") == 4
    assert config.get("d") is config.get("lazy")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("beta: 1\nx: ${bata}", ':2: ${bata}: no such key in the config; did you mean "beta"?'),
        (
            "s: {abc: 1}\nx: a${s.abd}",
            ':2: ${s.abd}: no such key in the config; did you mean "abc"',
        ),
        ("a: ${b}\nb: ${x}\nx: ${a}", "${a} refers to itself: a -> b -> x -> a"),
        ("x: ${x}", "${x} refers to itself: x -> x"),
        ("x: [a, 'a${x}']", "${x} refers to itself"),
        ("s: {a: 1}\nx: a${s}", ":2: ${s} is a mapping: only text and numbers go into text"),
        ("s:\nx: a${s}", "${s} is empty: only"),
        ("x: a${b", ':1: "a${b": ${ without its }'),
        (
            "x: !access_by_index_or_key {data: [1, 2], index_or_key: 5}",
            "no item 5 in a list of len",
        ),
        ("x: !access_by_index_or_key {data: {a: 1}, index_or_key: b}", "no item 'b' in a mapping"),
        ("x: !access_by_index_or_key {data: [1]}", "needs index_or_key"),
        ("x: !pathjoin []", "!pathjoin needs at least one part"),
    ],
)
def test_bad_references(tmp_path, text, message):
    config = load(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        config.get("x")
    assert message in str(caught.value)
    assert f"{tmp_path}/c.yaml:" in str(caught.value)


def test_a_reference_after_an_error_still_works(tmp_path):
    config = load(tmp_path, "a: ${b}\nb: ${a}\nc: ${d}\nd: 1")
    for _ in range(2):
        with pytest.raises(ConfigError, match=r":1: \$\{b\} refers to itself: b -> a -> b$"):
            config.get("a")
    assert config.get("c") == 1


def test_computed_tags(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    config = load(
        tmp_path,
        """
        n: &n coco2017
        root: &root !join ['/data/', *n]
        nested: !join [*root, '/val', 1, 0.32]
        path: !pathjoin ['~/a', 'b', '${n}']
        home: !expanduser ~/x
        abs: !abspath some/${n}
        item: !access_by_index_or_key {data: {k: [1, '${n}']}, index_or_key: k}
        of: !access_by_index_or_key {data: '${item}', index_or_key: 1}
        """,
    )
    assert config.get("nested") == "/data/coco2017/val10.32"
    assert config.get("path") == "/home/me/a/b/coco2017"
    assert config.get("home") == "/home/me/x"
    assert config.get("abs") == os.path.abspath("some/coco2017")
    assert config.get("item") == [1, "coco2017"]
    assert config.get("of") == "coco2017"


def test_a_join_over_something_unbuilt_waits(tmp_path):
    config = load(
        tmp_path,
        """
        sep: &s !import_get {key: os.sep}
        joined: !join [a, *s, b]
        """,
    )
    assert config.get("joined").tag == "!join"
    assert config.build(config.get("joined")) == f"a{os.sep}b"
