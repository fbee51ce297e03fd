"""Entropy coding of latents, and the bytes of a payload.

The container needs no PyTorch, and a device has none: the rest is imported when it is asked for.
"""

from typing import TYPE_CHECKING

from ladon.codec.container import BottleneckKind, CoderId, Fit, Payload
from ladon.lazy import lazy_names

if TYPE_CHECKING:
    from ladon.codec.coder import LatentCoder, quantize
    from ladon.codec.gaussian import GaussianCoder
    from ladon.codec.leveled import LeveledCoder

__all__ = [
    "BottleneckKind",
    "CoderId",
    "Fit",
    "GaussianCoder",
    "LatentCoder",
    "LeveledCoder",
    "Payload",
    "quantize",
]

__getattr__ = lazy_names(
    __name__,
    LatentCoder="ladon.codec.coder",
    quantize="ladon.codec.coder",
    GaussianCoder="ladon.codec.gaussian",
    LeveledCoder="ladon.codec.leveled",
)
