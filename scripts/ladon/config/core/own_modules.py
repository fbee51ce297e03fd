"""Modules of a user's own: found beside the config file that names them, without installing them.

Their folder goes to the end of Python's search path (worker processes get it from there, whichever
way they start): a `utils.py` beside a config is never what a library imports. A module of that name
elsewhere would then be found in its place, so a config that names it is refused.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from ladon.config.core.aliases import import_dependency, resolve_name
from ladon.config.core.nodes import SourceLocation
from ladon.config.core.safe import import_safely, resolve_safely
from ladon.errors import ConfigError

_searched: set[str] = set()  # folders that were put on the search path here


class OwnModules:
    """The modules that the files of one config name.

    Attributes:
        found: folder of each module that lay beside its file, by its name.
        safe: the config may name parts of known packages only, and nothing beside itself.

    Args:
        folders: of the config's files, by their names in messages.
        own: folder of the config itself, for what an option names.
        safe: see above.
    """

    def __init__(self, folders: Mapping[str, Path], own: Path, *, safe: bool = False) -> None:
        self.found: dict[str, Path] = {}
        self.safe = safe
        self._folders, self._own = folders, own

    def resolve(self, dotted: str, mark: SourceLocation | None) -> Any:
        """Return what a dotted name stands for.

        Args:
            dotted: 'package.module.attribute'.
            mark: where it is written.

        Raises:
            ConfigError: no such module or attribute, the module fails to import, or is refused.
        """
        if self.safe:
            return resolve_safely(dotted)
        return resolve_name(dotted, self._finder(self._folder(mark)))

    def import_dependency(self, entry: Any, mark: SourceLocation | None) -> None:
        """Import one entry of `dependencies`.

        Args:
            entry: a name, `[name, package]`, or a mapping of `name`, `package` and `path`, the
                folder of the module where it is not beside the file.
            mark: where it is written.

        Raises:
            ConfigError: the entry is malformed, or the module cannot be imported, or is refused.
        """
        if self.safe:
            whole = _as_mapping(entry)
            plain = set(whole) <= {"name"} or whole.get("package", whole.get("path")) is None
            import_safely(whole.get("name") if plain else str(whole))
            return
        folder = self._folder(mark)
        path = entry.get("path") if isinstance(entry, dict) else None
        if path is not None:
            if not isinstance(path, str) or not path:
                raise ConfigError(f"the path of a dependency is a folder, not {path!r}")
            folder = (folder / Path(path).expanduser()).resolve()
            name = str(entry.get("name")).partition(".")[0]
            if _beside(name, folder) is None and not (folder / name).is_dir():
                raise ConfigError(f"there is no {name}.py in {folder}")
        import_dependency(entry, self._finder(folder))

    def recorded(self, dependencies: Any) -> list[Any]:
        """Return `dependencies` such that a config elsewhere finds the same modules.

        Args:
            dependencies: as the config has them.
        """
        given = dependencies if isinstance(dependencies, list | tuple) else [dependencies]
        entries, left = [], dict(self.found)
        for entry in given if dependencies is not None else ():
            whole = _as_mapping(entry)
            top = str(whole.get("name")).partition(".")[0]
            folder = left.pop(top, None) or self.found.get(top)
            entries.append(entry if folder is None else {**whole, "path": str(folder)})
        return entries + [{"name": name, "path": str(path)} for name, path in left.items()]

    def _folder(self, mark: SourceLocation | None) -> Path:
        return self._own if mark is None else self._folders.get(mark.file, self._own)

    def _finder(self, folder: Path) -> _Finder:
        return _Finder(folder, self.found)


class _Finder:
    """Imports modules, also from one folder.

    Args:
        folder: absolute; searched after the installed modules, and before the working folder.
        found: is told which modules lay there.
    """

    def __init__(self, folder: Path, found: dict[str, Path]) -> None:
        self.folder, self._found = folder, found

    def __call__(self, name: str, package: str | None = None) -> ModuleType:
        """Import a module.

        Raises:
            ConfigError: another module of this name is found before the one in the folder.
            ImportError: as Python raises it; and whatever the module itself raises.
        """
        top = name.partition(".")[0]
        file = _beside(top, self.folder)
        if file is not None:
            _search(self.folder)
        elif top and not _is_known(top):
            _search(self.folder if (self.folder / top).is_dir() else Path.cwd())
        if file is not None and top in sys.modules:
            _refuse_other(top, file)
        module = importlib.import_module(name, package)
        if file is not None:
            _refuse_other(top, file)
        if top and _home(top) == self.folder:
            self._found[top] = self.folder
        return module

    def choices(self) -> list[str]:
        """Return the names of the modules in the folder."""
        try:
            return sorted(path.stem for path in self.folder.glob("*.py"))
        except OSError:
            return []


def _as_mapping(entry: Any) -> dict[str, Any]:
    if isinstance(entry, dict):
        return entry
    name, *package = entry if isinstance(entry, list | tuple) else [entry]
    return {"name": name, **({"package": package[0]} if package else {})}


def _beside(top: str, folder: Path) -> Path | None:
    files = (folder / f"{top}.py", folder / top / "__init__.py") if top else ()
    return next((file for file in files if file.is_file()), None)


def _is_known(top: str) -> bool:
    return top in sys.modules or importlib.util.find_spec(top) is not None


def _search(folder: Path) -> None:
    """Let Python look for modules in a folder, too, after all others."""
    text = str(folder)
    if text in sys.path or ("" in sys.path and folder == Path.cwd()):
        return
    importlib.invalidate_caches()  # a file may be younger than what Python knows of its folder
    sys.path.append(text)
    _searched.add(text)


def _refuse_other(top: str, file: Path) -> None:
    """Refuse a module beside a config that is hidden by another one of its name.

    Raises:
        ConfigError: naming both.
    """
    found = getattr(sys.modules[top], "__file__", None)
    if found is not None and os.path.realpath(found) == os.path.realpath(file):
        return
    if found is not None and str(_home(top)) in _searched:
        text = f"this process has {found} of another config under that name: rename one of them"
    else:
        text = f"Python finds {found or 'one of its own'} first: rename yours"
    raise ConfigError(f'the module "{top}" would not be {file}: {text}')


def _home(top: str) -> Path | None:
    """Return the folder that an imported module or package lies in, None if it has none."""
    module = sys.modules.get(top)
    file = getattr(module, "__file__", None)
    if file is not None:
        path = Path(file)
        return path.parent.parent if path.name == "__init__.py" else path.parent
    parts = list(getattr(module, "__path__", ()))  # a package without __init__.py
    return Path(parts[0]).parent if parts else None


def forget_own_modules() -> set[str]:
    """Forget all modules of users' own, so that another config finds its own under their names.

    Returns:
        The modules' names.
    """
    tops = {name.partition(".")[0] for name in sys.modules}
    own = {top for top in tops if str(_home(top)) in _searched}
    names = {name for name in sys.modules if name.partition(".")[0] in own}
    for name in names:
        del sys.modules[name]
    for folder in _searched & set(sys.path):
        sys.path.remove(folder)
    _searched.clear()
    return names
