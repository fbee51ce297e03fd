"""Entropy coding of latents."""

from ladon.codec.coder import LatentCoder, quantize

__all__ = ["LatentCoder", "quantize"]
