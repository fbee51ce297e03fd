"""Ladon: multi-task supervised compression for split computing."""

from pathlib import Path as _Path
from typing import TYPE_CHECKING

from ladon.lazy import lazy_names as _lazy_names
from ladon.process import keep_compiled_code as _keep_compiled_code

if TYPE_CHECKING:
    from ladon.split.loading import load

__all__ = ["__version__", "load"]

__version__ = "1.0.0.dev0"

# before anything imports numba, which looks for a place when it meets the first function
_keep_compiled_code(_Path(__file__).parent / "codec")

__getattr__ = _lazy_names(__name__, load="ladon.split.loading")
