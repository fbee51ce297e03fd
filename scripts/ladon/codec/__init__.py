"""Entropy coding of latents."""

from ladon.codec.coder import LatentCoder

__all__ = ["LatentCoder"]
