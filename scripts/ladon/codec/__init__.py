"""Entropy coding of latents."""

from ladon.codec.coder import LatentCoder, quantize
from ladon.codec.gaussian import GaussianCoder

__all__ = ["GaussianCoder", "LatentCoder", "quantize"]
