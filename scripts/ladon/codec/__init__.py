"""Entropy coding of latents, and the bytes of a payload."""

from ladon.codec.coder import LatentCoder, quantize
from ladon.codec.container import BottleneckKind, CoderId, Fit, Payload
from ladon.codec.gaussian import GaussianCoder

__all__ = [
    "BottleneckKind",
    "CoderId",
    "Fit",
    "GaussianCoder",
    "LatentCoder",
    "Payload",
    "quantize",
]
