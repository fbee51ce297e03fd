"""Config files made to break the reader: one error that names the place, and that soon."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from data_config.helpers import GOOD, error_of, load, problems_of, write

from ladon.commands.validate import parse_args, validate
from ladon.config import find_config_files, load_config, validate_config
from ladon.errors import ConfigError, UsageError

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _in_seconds():
    start = time.perf_counter()
    yield
    assert time.perf_counter() - start < 30, "bounded work takes a second or two"


def one_problem(folder, text):
    (problem,) = problems_of(load(folder, text))
    return problem


@pytest.mark.parametrize("copies", [2, 5])
def test_bases_that_fan_out(tmp_path, copies):
    for level in range(25):
        names = ", ".join([f"{level + 1}.yaml"] * copies)
        write(tmp_path, f"_base_: [{names}]\na: {level}", f"{level}.yaml")
    write(tmp_path, "b: 1", "25.yaml")
    with pytest.raises(
        ConfigError, match=r"\d+\.yaml:1: more than 200 _base_ files are to be read"
    ):
        load_config(tmp_path / "0.yaml")


def test_a_long_chain_of_bases(tmp_path):
    for level in range(100):
        write(tmp_path, f"_base_: {level + 1}.yaml", f"{level}.yaml")
    write(tmp_path, "b: 1", "100.yaml")
    with pytest.raises(ConfigError, match=r"30\.yaml:1: a chain of more than 30 _base_ files"):
        load_config(tmp_path / "0.yaml")
    assert load_config(tmp_path / "80.yaml").get("b") == 1
    write(tmp_path, "_base_: [80.yaml, 80.yaml, 90.yaml]\nc: 2", "twice.yaml")
    assert load_config(tmp_path / "twice.yaml").get("b") == 1, "shared bases are fine"


LAUGHS = "a0: ha\n" + "".join(
    f"a{n}: '{' '.join([f'${{a{n - 1}}}'] * 10)}'\n" for n in range(1, 30)
)
LISTS = "a0: [ha]\n" + "".join(
    f"a{n}: [{', '.join([f'${{a{n - 1}}}'] * 10)}]\n".replace("${", "'${").replace("}", "}'")
    for n in range(1, 30)
)
PATHS = "".join(f"a{n}: {{k: '${{a{n + 1}.k.k}}'}}\n" for n in range(60)) + "a60: {k: {k: 1}}\n"


@pytest.mark.parametrize("form", ["${{{}}}", "x${{{}}}"], ids=["whole", "within"])
def test_a_chain_of_references(tmp_path, form):
    chain = "".join(f"a{n}: {form.format(f'a{n + 1}')}\n" for n in range(3000)) + "a3000: 1\n"
    text = "${a1}: a chain of more than 50 references"
    assert one_problem(tmp_path, chain) == f"c.yaml:1: a0: {text}"
    with pytest.raises(ConfigError, match=r"c\.yaml:1: \$\{a1\}: a chain of more than 50"):
        load(tmp_path, chain).get("a0")
    expected = 1 if form == "${{{}}}" else "x" * 10 + "1"
    assert load(tmp_path, chain).get("a2990") == expected


@pytest.mark.parametrize("text", [LAUGHS, LISTS], ids=["text", "lists"])
def test_references_that_multiply(tmp_path, text):
    problem = one_problem(tmp_path, text)
    assert "this would become too much" in problem
    assert problem.startswith("c.yaml:")
    with pytest.raises(ConfigError, match=r"c\.yaml:30: this would become too much"):
        load(tmp_path, text).get("a29")
    with pytest.raises(ConfigError, match="this would become too much"):
        load(tmp_path, text).dump()


def test_references_in_paths_that_multiply(tmp_path):
    with pytest.raises(ConfigError, match=r"c\.yaml:"):
        load(tmp_path, PATHS).get("a0.k")


def test_references_as_people_use_them(tmp_path):
    text = "".join(f"a{n}: x${{a{n + 1}}}\n" for n in range(40)) + "a40: y\n"
    text += "".join(f"b{n}: {{c: '${{a30}}', d: [1, 2, 3]}}\n" for n in range(300))
    text += "all: [" + ", ".join(f"'${{b{n}}}'" for n in range(300)) + "]\n"
    config = load(tmp_path, text)
    assert config.get("a0") == "x" * 40 + "y"
    assert len(config.get("all")) == 300
    assert config.get("all.299.c") == "x" * 10 + "y"
    assert config.get("all") == config.get("all"), "each call counts anew"
    for _ in range(2):
        assert config.dump().count("c: xxxxxxxxxxy") == 600


def test_aliases_that_multiply(tmp_path):
    for opening, closing in ("[]", ("!join [", "]")):
        text = f"a0: &a0 {opening}ha{closing}\n" + "".join(
            f"a{n}: &a{n} {opening}{', '.join([f'*a{n - 1}'] * 10)}{closing}\n"
            for n in range(1, 30)
        )
        assert error_of(tmp_path, text).startswith("c.yaml:")
        assert "aliases repeat this anchor" in error_of(tmp_path, text)
    many = "a: &a [" + "1, " * 1000 + "]\nb: [" + "*a, " * 150 + "]\n"
    assert len(load(tmp_path, many).get("b")) == 150


@pytest.mark.parametrize("depth", [150, 600, 5000, 50_000])
def test_deep_values(tmp_path, depth):
    args = f"datasets:\n  x: !import_call {{key: a.b, init: {{args: {'[' * depth}{']' * depth}}}}}"
    assert "nested too deeply" in error_of(tmp_path, args)
    block = "".join(f"{' ' * n}k:\n" for n in range(min(depth, 1500)))
    assert "nested too deeply" in error_of(tmp_path, block)
    value = f"x={'[' * depth}{']' * depth}"
    assert "nested too deeply" in error_of(tmp_path, "a: 1", assignments=[value])
    path = f"{'x.' * depth}y=1"
    assert "nested too deeply" in error_of(tmp_path, "a: 1", assignments=[path])


def test_deep_and_cyclic_overrides(tmp_path):
    deep: dict = {}
    for _ in range(500):
        deep = {"k": deep}
    cycle: dict = {}
    cycle["self"] = cycle
    for overrides in (deep, {"a": [deep]}, cycle):
        message = error_of(tmp_path, "a: 1", overrides=overrides)
        assert message == "--json: nested too deeply: at most 100 levels"


def test_depth_through_references(tmp_path):
    level = "[" * 60 + "'${%s}'" + "]" * 60
    text = "".join(f"a{n}: {level % f'a{n + 1}'}\n" for n in range(20)) + "a20: 1\n"
    with pytest.raises(ConfigError, match="nested too deeply"):
        load(tmp_path, text).get("a0")
    assert validate_config(load(tmp_path, text))


def test_an_anchor_in_itself(tmp_path):
    for text in ("a: &a [1, *a]", "a: &a {b: *a}", "a: &a !join [*a]", "a: &a {<<: *a}"):
        assert error_of(tmp_path, text) == (
            "c.yaml:1: an anchor must not contain an alias of itself"
        )


def test_numbers_beyond_use(tmp_path):
    text = f"a: 0x{'f' * 5000}\nb: x${{a}}"
    assert "c.yaml:1: a number of so many digits" in error_of(tmp_path, text)


BASES = {
    "'a\\0b.yaml'": "embedded null byte",
    "~nouser_of_this_name/x.yaml": "home directory",
    "x" * 5000: "File name too long",
    "folder": "is a folder, not a config file",
    "loop.yaml": "c.yaml -> ",
    "link.yaml": "oop",
    "'new\\nline.yaml'": r"new\nline.yaml",
    "/dev/zero": "not found",
}


@pytest.mark.parametrize("name", BASES)
def test_bases_that_cannot_be_read(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.yaml").symlink_to("link.yaml")
    write(tmp_path, "_base_: c.yaml", "loop.yaml")
    quoted = name if name.startswith("'") else f"'{name}'"
    text = f"a: 1\n_base_: {quoted}".replace("'", '"')
    message = error_of(tmp_path, text)
    assert message.startswith("loop.yaml:1: _base_" if name == "loop.yaml" else "c.yaml:2: _base_")
    assert BASES[name] in message
    assert "\n" not in message
    assert len(message) < 500


def test_files_that_cannot_be_read(tmp_path, monkeypatch):
    for name, said in (
        ("a\0b.yaml", "config file not found|no such file or folder"),
        ("x" * 5000, "x: cannot be read: File name too long"),
        ("link.yaml", "config file not found|no such file or folder"),
        (".", "is a folder, not a config file"),
    ):
        (tmp_path / "link.yaml").unlink(missing_ok=True)
        (tmp_path / "link.yaml").symlink_to("link.yaml")
        for read in (load_config, lambda path: find_config_files([path])):
            if name == "." and read is not load_config:
                continue
            with pytest.raises(ConfigError, match=said) as caught:
                read(tmp_path / name)
            assert caught.value.exit_code == 2
            assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="larger than 16 MiB"):
        load_config("/dev/zero")

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    path = write(tmp_path, "a: 1")
    for method in ("open", "exists", "is_dir"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, method, refuse)
            with pytest.raises(ConfigError, match=r"c\.yaml: cannot be read: Permission denied"):
                load_config(path)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", refuse)
        with pytest.raises(ConfigError, match=r"not found: .*d\.yaml$"):
            load_config(tmp_path / "d.yaml")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "is_file", refuse)
        message = error_of(tmp_path, "_base_: other.yaml")
        assert message == "c.yaml:1: _base_ other.yaml: cannot be read: Permission denied"


@pytest.mark.parametrize("content", [b"\x80\x02}q\0.", b"PK\x03\x04\xff", bytes(range(256))])
def test_binary_files(tmp_path, content):
    path = tmp_path / "b.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="not UTF-8 text"):
        load_config(path)
    path.write_bytes(b"a: \0\0")
    with pytest.raises(ConfigError, match=r"b\.yaml:1: not valid YAML"):
        load_config(path)


def test_validate_takes_a_deep_override_for_what_it_is(tmp_path):
    deep = json.dumps({"a": 1})[:-1] + ', "b": ' + "[" * 5000 + "]" * 5000 + "}"
    with pytest.raises(UsageError, match="--json"):
        validate(parse_args([str(GOOD), "--json", deep]))
