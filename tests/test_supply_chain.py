"""What this project is made of, and that nothing of it is run or unpickled by the way."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import tomllib
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "scripts").rglob("*.py")) + sorted((ROOT / "configs").rglob("*.py"))

# dotted names as they are written, or their last parts
LOADERS = {
    "torch.load": "ladon.models.safe_load",
    "torch.hub.load": "nothing of a repository is run",
    "load_state_dict_from_url": "ladon.models.checkpoint",
    "torch.jit.load": "it runs",
    "pickle.load": "ladon.models.safe_pickle",
    "pickle.loads": "ladon.models.safe_pickle",
    "Unpickler": "ladon.models.safe_pickle",
    "cloudpickle.load": "ladon.models.safe_pickle",
    "cloudpickle.loads": "ladon.models.safe_pickle",
    "joblib.load": "it unpickles",
    "shelve.open": "it unpickles",
    "marshal.loads": "it makes code",
    "read_pickle": "it unpickles",
    "load_pickle": "it unpickles",
    "multiprocessing.connection.Listener": "it unpickles",
    "multiprocessing.connection.Client": "it unpickles",
    "yaml.unsafe_load": "it runs",
    "yaml.full_load": "it runs",
    "extractall": "ladon.distrust",
    "unpack_archive": "ladon.distrust",
    "os.system": "a list of words, and no shell",
    "os.popen": "a list of words, and no shell",
    "eval": "it runs text",
    "exec": "it runs text",
    "__import__": "importlib",
}


def calls(tree: ast.AST) -> list[tuple[str, ast.Call]]:
    """Every call, with the dotted name that is called."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            parts, target = [], node.func
            while isinstance(target, ast.Attribute):
                parts.append(target.attr)
                target = target.value
            is_name = isinstance(target, ast.Name)
            parts.append(target.id if is_name else "…")
            found.append((".".join(reversed(parts)), node))
    return found


def problems(text: str) -> list[str]:
    """What a source calls that it must not."""
    found = []
    for name, node in calls(ast.parse(text)):
        keywords = {word.arg: ast.unparse(word.value) for word in node.keywords}
        for loader, instead in LOADERS.items():
            is_builtin = loader in ("eval", "exec")  # model.eval() is no eval()
            if name == loader or (not is_builtin and name.endswith(f".{loader}")):
                found.append(f"line {node.lineno}: {name}: {instead}")
        if name.endswith(("np.load", "numpy.load")) and keywords.get("allow_pickle") != "False":
            found.append(f"line {node.lineno}: {name} without allow_pickle=False")
        if name == "yaml.load" and not keywords.get("Loader", "").endswith("SafeLoader"):
            found.append(f"line {node.lineno}: {name} without a safe loader")
        if keywords.get("shell", "False") != "False":
            found.append(f"line {node.lineno}: {name} by a shell")
        if keywords.get("allow_pickle", "False") != "False":
            found.append(f"line {node.lineno}: {name} lets pickles in")
        if keywords.get("weights_only", "True") != "True":
            found.append(f"line {node.lineno}: {name} lets pickles in")
    return found


@pytest.mark.parametrize(
    "text",
    [
        "torch.load(path)",
        "import torch as t\nt.hub.torch.load(f, weights_only=True)",
        "pickle.loads(data)",
        "x = Unpickler(f).load()",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text, Loader=yaml.FullLoader)",
        "subprocess.run(text, shell=True)",
        "tarfile.open(p).extractall(q)",
        "eval(text)",
        "f(weights_only=False)",
    ],
)
def test_it_is_noticed(text):
    assert problems(text) != []


def test_what_is_harmless_is_not_noticed():
    text = "model.eval()\nnp.load(p, allow_pickle=False)\nyaml.load(t, Loader=SafeLoader)\n"
    assert problems(text + "pickle.dumps(1)\njson.loads(t)\nre.compile(t)\nstate.load(1)") == []


def test_the_library_unpickles_and_runs_nothing_by_the_way():
    assert len(SOURCES) > 200
    found = {str(path.relative_to(ROOT)): problems(path.read_text("utf-8")) for path in SOURCES}
    assert {path: lines for path, lines in found.items() if lines} == {}


LOCK = (ROOT / "constraints.txt").read_text(encoding="utf-8")


def locked() -> dict[str, Requirement]:
    """What constraints.txt pins, by name."""
    joined = re.sub(r"\\\n\s*", "", LOCK)
    lines = [line for line in joined.splitlines() if line and not line.startswith("#")]
    found = {}
    for line in lines:
        text, *hashes = line.split("--hash=")
        requirement = Requirement(text)
        assert hashes, f"{line[:60]} has no hash"
        for digits in hashes:
            assert re.fullmatch(r"sha256:[0-9a-f]{64}", digits.strip()), line[:60]
        found[canonicalize_name(requirement.name)] = requirement
    assert len(found) == len(lines), "a package is there twice"
    return found


def test_the_constraints_name_no_place():
    assert "://" not in LOCK
    assert not re.search(r"^\s*(-|--)[a-z-]*(index|host|links|url|cert)", LOCK, flags=re.M)
    assert all(one.url is None for one in locked().values())


def test_the_constraints_are_the_pipfiles_pins():
    pipfile = tomllib.loads((ROOT / "Pipfile").read_text(encoding="utf-8"))
    found = locked()
    for section in ("packages", "dev-packages", "serve", "cluster"):
        for name, pin in pipfile[section].items():
            version = pin if isinstance(pin, str) else pin["version"]
            assert str(found[canonicalize_name(name)].specifier) == version, f"{name}: make lock"
    assert len(found) > 100, "what these stand on is there, too"


def test_the_constraints_fit_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    texts = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    found = locked()
    for asked in map(Requirement, texts):
        (pin,) = found[canonicalize_name(asked.name)].specifier
        assert asked.specifier.contains(pin.version), f"{asked} and {pin}"


def test_an_audit_that_nobody_answers_says_so(monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("lock", ROOT / ".ci" / "lock.py")
    lock = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(lock)

    def answer(code, out, err):
        done = subprocess.CompletedProcess([], code, out, err)
        monkeypatch.setattr(lock.subprocess, "run", lambda *_, **__: done)
        return lock.audit()

    assert answer(0, "", "No known vulnerabilities found\n") == 0
    assert (
        answer(1, "Name Version ID\nx 1 CVE-1\n", "Found 1 known vulnerability in 1 package") == 1
    )
    capsys.readouterr()
    assert answer(1, "", "ERROR:pip_audit._cli:ConnectionError: no route\n") == 2
    shown = capsys.readouterr().err
    assert shown.startswith(
        "nothing was audited: the service that knows of vulnerabilities did not"
    )
    assert "(ERROR:pip_audit._cli:ConnectionError: no route)" in shown
