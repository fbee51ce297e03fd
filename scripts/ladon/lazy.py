"""Names of a package or module that are imported when somebody asks for them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any


def lazy_names(module: str, **names: str) -> Callable[[str], Any]:
    """Return a module's `__getattr__` that imports what is asked for from where it is.

    Args:
        module: its name.
        names: the names, and of each the module that has it.
    """

    def find(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        return getattr(importlib.import_module(names[name]), name)

    return find
