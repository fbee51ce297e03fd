"""Ladon: multi-task supervised compression for split computing."""

from pathlib import Path as _Path

from ladon.process import keep_compiled_code as _keep_compiled_code

__version__ = "1.0.0.dev0"

# before anything imports numba, which looks for a place when it meets the first function
_keep_compiled_code(_Path(__file__).parent / "codec")
