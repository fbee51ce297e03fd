"""Building: names through the alias table, each node once, failures with file and line."""

import collections
import fractions
import os
import sys
import types

import pytest
from data_config.helpers import load, write

from ladon.config import resolve_name
from ladon.config.core.aliases import ALIASES, MODULE_ALIASES
from ladon.errors import ConfigError, DataError


@pytest.fixture
def calls(monkeypatch):
    """A module `probe` whose functions record their calls."""
    module = types.ModuleType("probe")
    module.made = []

    def make(*args, **kwargs):
        module.made.append((args, kwargs))
        return types.SimpleNamespace(args=args, **kwargs)

    class Thing:
        size = 3

        @staticmethod
        def of(value):
            return ("of", value)

    def fail(message="broken"):
        raise ValueError(message)

    def lack():
        raise DataError("no data here")

    module.make, module.Thing, module.fail, module.lack = make, Thing, fail, lack
    monkeypatch.setitem(sys.modules, "probe", module)
    return module.made


def test_an_anchor_used_twice_is_one_object(tmp_path, calls):
    config = load(
        tmp_path,
        """
        a: &x !import_call {key: probe.make, init: {kwargs: {n: '${n}'}}}
        b: [*x, {c: *x}]
        d: ${a}
        n: 4
        """,
    )
    first = config.build(config.get("a"))
    items = config.build(config.get("b"))
    assert first.n == 4
    assert items[0] is items[1]["c"] is first is config.build(config.get("d"))
    assert len(calls) == 1


def test_nothing_is_built_before_it_is_asked_for(tmp_path, calls):
    config = load(
        tmp_path,
        """
        a: !import_call {key: probe.fail}
        b: !import_call {_private: !import_call {key: probe.fail}, key: probe.make}
        """,
    )
    config.dump()
    assert config.build(config.get("b")).args == ()
    assert len(calls) == 1


def test_every_tag_builds(tmp_path, calls):
    config = load(
        tmp_path,
        """
        get: !import_get {key: probe.Thing}
        parts: !import_get {key: Thing, package: probe}
        call: !import_call {key: fractions.Fraction, init: {args: [3], kwargs: {denominator: 4}}}
        packaged: !import_call {key: Fraction, package: fractions, init: {args: [3]}}
        empty: !import_call {key: collections.OrderedDict, init: }
        method: !import_call_method {package: probe.Thing.of, init: {args: [5]}}
        split: !import_call_method {package: probe, class_name: Thing, method_name: of,
                                    init: {kwargs: {value: 6}}}
        bound: !call_method {obj: 'a-b', method_name: split, args: ['-']}
        returned: !call_method {obj: !import_call {key: collections.Counter}, method_name: update,
                                args: [aab], returns_obj: true}
        attribute: !getattr [!import_get {key: probe.Thing}, size]
        default: !getattr [!import_get {key: probe.Thing}, nothing, 9]
        set: !setattr [!import_call {key: probe.make}, x, 7]
        item: !access_by_index_or_key
          data: !import_call {key: collections.Counter, init: {args: [aab]}}
          index_or_key: a
        """,
    )
    built = config.build({key: config.get(key) for key in config.root})
    assert built["get"] is built["parts"] is sys.modules["probe"].Thing
    assert built["call"] == fractions.Fraction(3, 4)
    assert built["packaged"] == 3
    assert built["empty"] == collections.OrderedDict()
    assert built["method"] == ("of", 5)
    assert built["split"] == ("of", 6)
    assert built["bound"] == ["a", "b"]
    assert built["returned"] == collections.Counter("aab")
    assert (built["attribute"], built["default"]) == (3, 9)
    assert built["set"].x == 7
    assert built["item"] == 2


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("!import_call {key: probe.fail}", "building probe.fail failed: ValueError: broken"),
        ("!import_call {key: probe.make, init: {args: 3}}", "args must be a list"),
        ("!import_call {key: probe.make, init: [1]}", "init must be a mapping"),
        ("!import_call {init: }", 'needs "key"'),
        ("!import_call {key: probe.mak}", 'module probe has no "mak"; did you mean "make"?'),
        ("!import_call {key: noprobe.make}", 'there is no module "noprobe"'),
        ("!import_call {key: make}", '"make" is not a dotted name'),
        ("!import_call_method {class_name: x}", 'needs "package"'),
        (
            "!getattr [!import_get {key: probe.Thing}, siz]",
            'Thing has no "siz"; did you mean "size"',
        ),
        ("!getattr [1]", "!getattr needs [object, name]"),
        ("!setattr [1, a]", "!setattr needs [object, name, value]"),
        ("!call_method {obj: x}", 'needs "obj" and "method_name"'),
        ("!call_method {obj: x, method_name: splt}", 'str has no method "splt"; did you mean "spl'),
    ],
)
def test_failures_name_file_and_line(tmp_path, calls, value, message):
    config = load(tmp_path, f"a: 1\nb: {value}\n")
    with pytest.raises(ConfigError) as caught:
        config.build(config.get("b"))
    assert str(caught.value).startswith(f"{tmp_path}/c.yaml:2: ")
    assert message in str(caught.value)


def test_our_own_errors_pass_through_and_others_keep_their_cause(tmp_path, calls):
    config = load(tmp_path, "a: !import_call {key: probe.lack}\nb: !import_call {key: probe.fail}")
    with pytest.raises(DataError, match=r"^no data here$"):
        config.build(config.get("a"))
    with pytest.raises(ConfigError, match=r"building probe.fail failed: ValueError: br") as caught:
        config.build(config.get("b"))
    assert isinstance(caught.value.__cause__, ValueError)


def test_a_node_that_needs_itself(tmp_path, calls):
    config = load(
        tmp_path, "a: {x: !import_call {key: probe.make, init: {kwargs: {b: '${b}'}}}}\nb: ${a.x}"
    )
    with pytest.raises(ConfigError, match="itself"):
        config.build(config.get("a"))
    with pytest.raises(ConfigError, match="itself"):
        config.dump()


def test_build_leaves_final_text_alone(tmp_path):
    config = load(tmp_path, "a: {x: '$${n}', l: ['$${n}']}\nn: 1")
    section = config.section("a")
    assert section == config.build(section) == {"x": "${n}", "l": ["${n}"]}
    assert type(config.build(section)["l"]) is list


def test_aliases_lead_to_ladon_data():
    assert ALIASES["coco.dataset.coco_dataset"] == "ladon.data.coco.coco_dataset"
    assert ALIASES["utils.dataset.get_num_iterations"] == "ladon.data.loaders.get_num_iterations"
    assert ALIASES["custom.transform.CustomCompose"] == "ladon.data.transforms.CustomCompose"
    assert ALIASES["custom.sampler.GroupedBatchSampler"].startswith("ladon.data.samplers.")
    assert ALIASES["torchvision.datasets.ImageFolder"] == "ladon.data.folder.ImageFolder"
    assert MODULE_ALIASES == {"custom": "ladon.data"}


def test_an_alias_wins_over_a_users_module_but_only_for_its_names(monkeypatch):
    kept = types.ModuleType("kept")
    kept.here = "ours"
    monkeypatch.setitem(sys.modules, "kept", kept)
    monkeypatch.setitem(ALIASES, "custom.transform.CustomCompose", "kept.here")
    users = types.ModuleType("custom.transform")
    users.CustomCompose, users.Own = "theirs", "own"
    monkeypatch.setitem(sys.modules, "custom", types.ModuleType("custom"))
    monkeypatch.setitem(sys.modules, "custom.transform", users)
    assert resolve_name("custom.transform.CustomCompose") == "ours"
    assert resolve_name("custom.transform.Own") == "own"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("os.pth.join", 'module os has no "pth"; did you mean "path"?'),
        ("os.path.joint", 'has no "joint"; did you mean "join"?'),
        ("fractions.Fraction.from_flot", 'class fractions.Fraction has no "from_flot"; did you'),
        ("nowhere.at.all", 'there is no module "nowhere"'),
        ("os..path", "is not a dotted name"),
    ],
)
def test_names_that_lead_nowhere(name, message):
    with pytest.raises(ConfigError) as caught:
        resolve_name(name)
    assert message in str(caught.value)


def test_a_module_that_fails_to_import_says_why(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    write(tmp_path, "import not_installed_anywhere", "lacking_mod.py")
    write(tmp_path, "1 / 0", "raising_mod.py")
    with pytest.raises(ConfigError, match="No module named 'not_installed_anywhere'"):
        resolve_name("lacking_mod.x")
    with pytest.raises(ConfigError, match="ZeroDivisionError"):
        resolve_name("raising_mod.x")


def test_dependencies_in_every_spelling(tmp_path, monkeypatch):
    kept = types.ModuleType("kept_data")
    monkeypatch.setitem(sys.modules, "kept_data", kept)
    monkeypatch.setitem(MODULE_ALIASES, "custom", "kept_data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", os.getcwd())])
    write(tmp_path, "VALUE = 1", "beside_the_config.py")
    text = "dependencies: [{name: custom}, {name: beside_the_config}, [json, null], math]"
    config = load(tmp_path, text)
    config.import_dependencies()
    assert sys.modules.pop("beside_the_config").VALUE == 1
    load(tmp_path, "dependencies: math").import_dependencies()
    load(tmp_path, "a: 1").import_dependencies()


@pytest.mark.parametrize("entry", ["nowhere_at_all", "3", "{package: x}", "{name: ''}"])
def test_bad_dependencies(tmp_path, entry):
    config = load(tmp_path, f"dependencies:\n  - math\n  - {entry}\n")
    with pytest.raises(ConfigError, match=r"c\.yaml:3: "):
        config.import_dependencies()
