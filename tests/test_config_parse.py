"""YAML to nodes: places, sharing, and one clear line for each malformed file."""

import pytest
from data_config.helpers import error_of, load, write

from ladon.config import LazyCall, load_config
from ladon.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("5E+2", 500.0),
        ("1.5e3", 1500.0),
        ("-2e1", -20.0),
        ("20.48", 20.48),  # YAML 1.1 octal, as PyYAML reads it
        ("yes", True),
        ("off", False),
        ("~", None),
        ("", None),
        ("'1e-3'", "1e-3"),
        ("2012-01-01", "2012-01-01"),
        ("e3", "e3"),
    ],
)
def test_scalars(tmp_path, text, value):
    got = load(tmp_path, f"a: {text}").get("a")
    assert got == value
    assert type(got) is type(value)


def test_every_key_knows_its_line(tmp_path):
    config = load(tmp_path, "a: 1\nb:\n  c:\n    - 1\n    - {d: 2}\n")
    file = f"{tmp_path}/c.yaml"
    assert config.where("a") == f"{file}:1"
    assert config.where("b.c.1.d") == f"{file}:5"
    assert config.where("b.c.1.missing") == f"{file}:5"
    assert config.where("nothing") == f"{file}:1"


def test_an_alias_is_its_anchors_object(tmp_path):
    config = load(
        tmp_path,
        """
        a: &x !import_get {key: os.path}
        b: *x
        c: {d: *x}
        """,
    )
    assert isinstance(config.get("a"), LazyCall)
    assert config.get("a") is config.get("b") is config.get("c.d")
    assert config.get("a").tag == "!import_get"
    assert config.get("a").line == 2


def test_anchors_on_keys(tmp_path):
    config = load(tmp_path, "d:\n  &id coco2017/val: 1\n  &q 'quoted/val': 2\nuse: [*id, *q]\n")
    assert config.get("use") == ["coco2017/val", "quoted/val"]


def test_merge_keys(tmp_path):
    config = load(
        tmp_path,
        """
        one: &one {a: 1, b: 1}
        two: &two {b: 2, c: 2}
        single: {<<: *one, b: 9}
        several: {c: 9, <<: [*one, *two]}
        tagged: &t !import_call {key: fractions.Fraction, init: {args: [1, 2]}}
        other: !import_call {<<: *t, init: {args: [3]}}
        """,
    )
    assert config.get("single") == {"a": 1, "b": 9}
    assert config.get("several") == {"a": 1, "b": 1, "c": 9}
    assert config.build(config.get("other")) == 3
    assert config.build(config.get("tagged")) == 0.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: [1\n", "c.yaml:3: not valid YAML: "),
        ("a: b: c", "c.yaml:1: not valid YAML: "),
        ("a: *nothing", "c.yaml:1: not valid YAML: found undefined alias"),
        ("x: 1\na: {b: ${x}}", "(inside { } or [ ], put ${...} in quotes)"),
        ("a: \x07", "c.yaml:1: not valid YAML: "),
        ("a: 1\n--- \nb: 2", "not valid YAML"),
        ("", "c.yaml: the file is empty"),
        ("# only a comment", "c.yaml: the file is empty"),
        ("- 1", "c.yaml: a config must be a mapping"),
        ("text", "c.yaml: a config must be a mapping"),
        ("a: 1\nb: 2\na: 3", 'c.yaml:3: key "a" stands twice in one mapping (first on line 1)'),
        ("a: {<<: 1}", "c.yaml:1: << needs a mapping"),
        ("a: {? [1]: 2}", "c.yaml:1: a key must be a plain value"),
        ("a: &x [*x]", "c.yaml:1: an anchor must not contain an alias of itself"),
        ("a: !imprt_call {}", 'c.yaml:1: unknown tag !imprt_call; did you mean "!import_call"?'),
        ("a: !import_call", "c.yaml:1: !import_call needs a mapping"),
        ("a: !join text", "c.yaml:1: !join needs a list"),
        ("a: !abspath [x]", "c.yaml:1: !abspath needs text"),
        ("a: !!int x", 'c.yaml:1: "x" is not a valid int'),
        ("a: 08", 'c.yaml:1: "08" is not a valid int: write 8, or "08" in quotes if it is text'),
        ("a: [-019]", 'c.yaml:1: "-019" is not a valid int: write -19, or'),
        ("a: !!set {x}", "c.yaml:1: tag !!set is not supported here"),
    ],
)
def test_malformed_files(tmp_path, text, message):
    assert message in error_of(tmp_path, text)


@pytest.mark.parametrize(
    "value",
    [
        "!!python/object/apply:os.mkdir [DIR]",
        "!!python/name:os.system",
        "!!python/object/new:os.mkdir [DIR]",
        "!!python/module:os",
    ],
)
def test_python_tags_are_refused_and_never_run(tmp_path, value):
    target = tmp_path / "made"
    message = error_of(tmp_path, f"a: {value.replace('DIR', str(target))}")
    assert "c.yaml:1: tag !!python/" in message
    assert "refused" in message
    assert not target.exists()


def test_missing_file_suggests_a_sibling(tmp_path):
    write(tmp_path, "a: 1", "resnet50.yaml")
    with pytest.raises(ConfigError, match=r"not found: .*resnet5\.yaml; did you mean .resnet50.y"):
        load_config(tmp_path / "resnet5.yaml")
    with pytest.raises(ConfigError, match=r"config file not found: nowhere/x.yaml$"):
        load_config("nowhere/x.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "010",
            'would be the number 8 (YAML reads it as octal): write 10 or 8, or "010" in quotes',
        ),
        ("-017", 'would be the number -15 (YAML reads it as octal): write -17 or -15, or "-017"'),
        ("0_100", "would be the number 64 (YAML reads it as octal): write 100 or 64"),
        ("1:30", 'would be the number 90 (YAML reads it in base 60): write 90, or "1:30" in'),
        ("2:00:00", "would be the number 7200 (YAML reads it in base 60)"),
        ("1:30.5", "would be the number 90.5 (YAML reads it in base 60)"),
    ],
)
@pytest.mark.parametrize("place", ["a: {}", "a: [1, {}]", "{}: b", "a: {{b: {}}}"])
def test_numbers_that_are_read_otherwise_are_refused(tmp_path, text, message, place):
    found = error_of(tmp_path, "x: 1\n" + place.format(text) + "\n")
    assert found.startswith(f"c.yaml:2: {text} {message}")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("007", 7),
        ("0", 0),
        ("00", 0),
        ("0x10", 16),
        ("0b11", 3),
        ("1_000", 1000),
        ("'010'", "010"),
        ('"1:30"', "1:30"),
        ("0o17", 15),
        ("0.10", 0.1),
        ("-.5", -0.5),
        ("+.5", 0.5),
        (".5e3", 500.0),
        ("-.5e-1", -0.05),
        ("-0", 0),
        ("a:30", "a:30"),
        ("2026-11-26", "2026-11-26"),
        ("1e-3", 0.001),
    ],
)
def test_numbers_and_texts_that_a_person_reads_the_same(tmp_path, text, value):
    assert load_config(write(tmp_path, f"a: {text}\n")).get("a") == value


def test_folder_and_other_encodings(tmp_path):
    with pytest.raises(ConfigError, match="is a folder, not a config file"):
        load_config(tmp_path)
    path = tmp_path / "latin.yaml"
    path.write_bytes("a: é".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin\.yaml: not UTF-8 text"):
        load_config(path)
    path.write_bytes("a: é".encode("utf-8-sig"))
    assert load_config(path).get("a") == "é"


@pytest.mark.parametrize("text", ["a: " + "[" * 200_000, "- " * 200_000, "{\n" * 200_000])
def test_deep_nesting_is_an_error_not_a_crash(tmp_path, text):
    assert error_of(tmp_path, text) == "c.yaml: not valid YAML: nested too deeply"


def test_loading_imports_nothing_heavy(tmp_path):
    import subprocess
    import sys
    from pathlib import Path

    path = write(tmp_path, "a: !import_call {key: torch.nn.ReLU}\nb: 1\n")
    code = (
        "import sys; from ladon.config import load_config\n"
        f"assert load_config({str(path)!r}).get('b') == 1\n"
        "assert not {'torch', 'torchvision', 'torchdistill'} & set(sys.modules)"
    )
    scripts = Path(__file__).parents[1] / "scripts"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=scripts, timeout=60)
