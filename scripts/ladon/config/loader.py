"""Config files to a `Config`: bases, overrides, data root, in that order; nothing is built.

Sections in the legacy schema become current ones after `--json` and before `--set`.

load_config("configs/x.yaml", overrides={"beta": 1.28}, assignments=["train.log_freq=1"])
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ladon.config.core.config import Config
from ladon.config.core.files import near, reachable, shown
from ladon.config.core.interpolate import Resolver, escape, references_in
from ladon.config.core.merge import assign, drop_delete_marks, merge, parse_assignment
from ladon.config.core.nodes import (
    ConfigList,
    ConfigMap,
    LazyCall,
    LocatedError,
    SourceLocation,
    from_plain,
    kind_of,
)
from ladon.config.core.parse import parse_file
from ladon.config.core.safe import is_safe_mode
from ladon.config.core.update_epoch import fix_epoch, follow_stages, read_stage_starts, sets_epoch
from ladon.config.legacy.upgrade import align, upgrade
from ladon.errors import ConfigError

BASE = "_base_"
DATA_ROOT_VARIABLE = "LADON_DATA_ROOT"
# No config needs more: a file that names the next one twice would be read 2^n times.
_MAX_CHAIN, _MAX_FILES = 30, 200
DEFAULT_DATA_ROOT = "~/datasets"
# What published files write in front of a dataset's folder (`~/dataset/` in the legacy ones).
_PUBLISHED_ROOTS = ("~/datasets", "~/dataset")


def load_config(
    path: str | os.PathLike[str],
    *,
    overrides: Mapping[str, Any] | None = None,
    assignments: Sequence[str] = (),
    data_root: str | None = None,
) -> Config:
    """Read a config file with its bases, and everything that is laid over it.

    As a stranger's where the variable LADON_SAFE is set (`--safe`).

    Args:
        path: the YAML file.
        overrides: a JSON object (`--json`), merged deeply over the file.
        assignments: `a.b.c=VALUE` strings (`--set`), applied last.
        data_root: the datasets' folder; it wins over the variable LADON_DATA_ROOT, and that over
            the key `data_root`.

    Raises:
        ConfigError: a file or an override cannot be used; the message names file and line.
    """
    path = Path(path)
    files = _Files()
    root = files.load(path)
    if overrides:
        root = _over(root, _as_layer(overrides))
    root = upgrade(root)
    if assignments:
        root = _assign_all(root, assignments)
    drop_delete_marks(root)
    root = _move_data_root(root, data_root)
    safe = is_safe_mode()
    return Config(fix_epoch(root), path, files.references, files.folders, safe=safe)


def find_config_files(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """List config files: files as given, folders walked for YAML, without `_base_` folders.

    Raises:
        ConfigError: a path does not exist.
    """
    found: dict[Path, None] = {}
    for path in map(Path, paths):
        with reachable(path):
            if not path.exists():
                raise ConfigError(f"no such file or folder: {shown(path)}{near(path)}")
            if not path.is_dir():
                found[path] = None
                continue
            for file in sorted(path.rglob("*")):
                is_base = BASE in file.relative_to(path).parts
                if file.suffix in (".yaml", ".yml") and file.is_file() and not is_base:
                    found[file] = None
    return list(found)


class _Files:
    """Reads a file and all its bases.

    Attributes:
        references: what text in any of them refers to, even where a later layer replaces it.
        folders: where each of them is, by its name in messages.
    """

    def __init__(self) -> None:
        self.references: set[str] = set()
        self.folders: dict[str, Path] = {}
        self._count = 0

    def load(self, path: Path, chain: tuple[Path, ...] = ()) -> ConfigMap:
        """Read a file over its bases; `chain` holds the files that led here."""
        own = parse_file(path)
        self.folders[shown(path)] = path.parent.resolve()
        references_in(own, self.references)
        if BASE not in own:
            return own
        mark = own.mark_of(BASE)
        named = own.pop(BASE)
        names = [named] if isinstance(named, str) else named
        if not isinstance(names, list) or not all(isinstance(n, str) and n for n in names):
            raise LocatedError(mark, f"{BASE} must be a path or a list of paths")
        chain = (*chain, path)
        if len(chain) > _MAX_CHAIN:
            raise LocatedError(mark, f"a chain of more than {_MAX_CHAIN} {BASE} files")
        root = ConfigMap(own.mark)
        for name in names:
            base = _base(path, name, mark, chain)
            self._count += 1
            if self._count > _MAX_FILES:
                text = f"more than {_MAX_FILES} {BASE} files are to be read for {shown(chain[0])}"
                raise LocatedError(mark, text)
            root = _over(root, self.load(base, chain))
        return _over(root, own)


def _base(path: Path, name: str, mark: SourceLocation | None, chain: tuple[Path, ...]) -> Path:
    """Return the file that `path` names as a base.

    Raises:
        ConfigError: it leads back to one of `chain`, is missing, or no file.
    """
    with reachable(name, mark, BASE):
        base = Path(os.path.normpath(path.parent / Path(name).expanduser()))
        if any(base.resolve() == seen.resolve() for seen in chain):
            circle = " -> ".join(shown(p) for p in (*chain, base))
            raise LocatedError(mark, f"{BASE} files name each other in a circle: {circle}")
        if base.is_dir():
            raise LocatedError(mark, f"{BASE} {shown(base)} is a folder, not a config file")
        if not base.is_file():
            hint = near(base) or " (paths are relative to the file that names them)"
            raise LocatedError(mark, f"{BASE} file not found: {shown(base)}{hint}")
    return base


def _over(root: ConfigMap, layer: ConfigMap) -> ConfigMap:
    root, layer = align(root, layer)
    before = read_stage_starts(root)
    merged = merge(root, layer)
    return merged if sets_epoch(layer) else follow_stages(merged, before)


def _as_layer(overrides: Mapping[str, Any]) -> ConfigMap:
    if not isinstance(overrides, Mapping):
        raise ConfigError(f"--json must be a JSON object of keys to values, not {overrides!r}")
    if BASE in overrides:
        raise ConfigError(f"--json cannot name a {BASE}: only a file can")
    return from_plain(dict(overrides), SourceLocation("--json"))


def _assign_all(root: ConfigMap, assignments: Sequence[str]) -> ConfigMap:
    """Apply every `--set` as one layer: their order does not decide whether the epoch moves."""
    before = read_stage_starts(root)
    says_epoch = False
    for text in assignments:
        pieces, value = parse_assignment(text)
        if pieces == [BASE]:
            raise ConfigError(f"--set {text}: cannot name a {BASE}: only a file can")
        says_epoch |= pieces in (["train"], ["train", "epoch_to_update"])
        root = assign(root, pieces, value)
    return root if says_epoch else follow_stages(root, before)


def _move_data_root(root: ConfigMap, argument: str | None) -> ConfigMap:
    """Settle `data_root`, and let literal `~/datasets/...` of published files follow it."""
    variable = os.environ.get(DATA_ROOT_VARIABLE)
    mark: SourceLocation | None
    if argument:
        value, mark = escape(argument), SourceLocation("--data_root")
    elif variable:
        value, mark = escape(variable), SourceLocation(DATA_ROOT_VARIABLE)
    elif root.get("data_root") is not None:
        value = root["data_root"]
        mark = root.mark_of("data_root")
        if isinstance(value, LazyCall):
            value = escape(str(Resolver(root).resolve(value)))
        if not isinstance(value, str) or not value:
            raise LocatedError(
                mark, f"data_root must be the path of a folder, not {kind_of(value)}"
            )
    else:
        value, mark = DEFAULT_DATA_ROOT, None
    value = value.rstrip("/") or "/"
    if value != DEFAULT_DATA_ROOT:
        root.pop("data_root", None)
        _change_text(root, lambda text: _under(text, value), set())
    root = root.copy()
    root.put("data_root", value, mark)
    return root


def _under(text: str, data_root: str) -> str:
    for published in _PUBLISHED_ROOTS:
        if text == published:
            return data_root
        if text.startswith(f"{published}/"):
            return f"{data_root.rstrip('/')}{text[len(published) :]}"
    return text


def _change_text(node: Any, change: Callable[[str], str], seen: set[int]) -> None:
    """Apply `change` to every string value below a node, in place, each shared node once."""
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, LazyCall):
        if isinstance(node.value, str):
            node.value = change(node.value)
        _change_text(node.value, change, seen)
    elif isinstance(node, ConfigMap | ConfigList):
        for key, child in node.items() if isinstance(node, ConfigMap) else enumerate(node):
            if isinstance(child, str):
                node[key] = change(child)
            else:
                _change_text(child, change, seen)
