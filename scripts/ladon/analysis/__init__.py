"""What a test tells beyond its scores (`--analyse`): values by class, confusion, the worst images.

A task says it by a subclass of `Analysis`, which its method `analysis` returns.
"""

from ladon.analysis.base import Analysed, Analysis, ByClass, Judged, Worst

__all__ = ["Analysed", "Analysis", "ByClass", "Judged", "Worst"]
