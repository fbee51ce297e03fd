"""Bottlenecks with a hyperprior: a second, smaller latent says how wide each symbol is spread.

What it says is computed on both sides, and must be equal to the bit: the hyper transforms run
pinned there, as the encoder does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from compressai.models.google import get_scale_table
from sc2bench.models import layer
from torch import Tensor, nn

from ladon.bottlenecks.base import Bottleneck, directly, register
from ladon.bottlenecks.coding import Apply, Coder
from ladon.bottlenecks.fitting import fitting_sides
from ladon.codec import BottleneckKind, GaussianCoder, LatentCoder, quantize


@register
class SHPBasedResNetBottleneck(Bottleneck, layer.SHPBasedResNetBottleneck):
    """sc2bench's bottleneck with a scale hyperprior, by its key, names and first weights.

    J. Ballé et al., "Variational image compression with a scale hyperprior", ICLR 2018. Three
    things are other than in sc2bench 0.1.1, which cannot be trained or used without:

    - after `update()`, in training, y is rounded around 0, as it is coded; sc2bench rounds it
      around the medians of the hyper latent z, another latent with channels of its own;
    - a size of image for which `h_s` does not give one scale for each symbol is refused;
    - `update(scale_table, force=True)` keeps that table; sc2bench then builds the default one.

    Args:
        args: sc2bench's.
        kwargs: likewise.
    """

    parts = ("latent", "hyper latent")
    payload_kind = BottleneckKind.SCALE_HYPERPRIOR

    @wraps(layer.SHPBasedResNetBottleneck.__init__)  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)

    @property
    def analysis(self) -> nn.Module:
        """The encoder."""
        return self.g_a

    @property
    def synthesis(self) -> nn.Module:
        """The decoder."""
        return self.g_s

    @property
    def transforms(self) -> tuple[nn.Module, ...]:
        """Encoder and hyper transforms."""
        return self.g_a, self.h_a, self.h_s

    @property
    def shaping(self) -> tuple[nn.Module, ...]:
        """Up to z: y's shape follows from z's."""
        return self.g_a, self.h_a

    def hyper_latent(self, latent: Tensor, apply: Apply) -> Tensor:
        """Return z [N, M, h', w'] of a latent y [N, C, h, w]."""
        return apply(self.h_a, latent.abs())

    def split(self, predicted: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return scales, and means if there are any, of what `h_s` gives."""
        return predicted, None

    def predict(
        self, hyper_latent: Tensor, apply: Apply, latent: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return scales and means [N, C, h, w] of a latent's symbols.

        Args:
            hyper_latent: z, quantised or with noise.
            apply: runs a transform.
            latent: y, whose symbols they are to be, where it is known.

        Raises:
            ValueError: the latent is of another size; says which sizes fit.
        """
        predicted = apply(self.h_s, hyper_latent)
        if latent is not None and predicted.shape[-2:] != latent.shape[-2:]:
            given, own = predicted.shape[-2:], latent.shape[-2:]
            sides = zip(("height", "width"), given, own, strict=True)
            fitting = [f"{n} {fitting_sides(self, o)}" for n, g, o in sides if g != o]
            raise ValueError(
                f"a latent of {own[0]}x{own[1]} for which h_s gives scales of {given[0]}x"
                f"{given[1]}: this hyperprior takes images of {' and '.join(fitting)} pixels"
            )
        return self.split(predicted)

    def noisy(self, latent: Tensor) -> Tensor:
        """Return the latent with noise, its likelihoods and z's left to hooks."""
        hyper_latent, _ = self.entropy_bottleneck(self.hyper_latent(latent, directly))
        scales, means = self.predict(hyper_latent, directly, latent)
        return self.gaussian_conditional(latent, scales, means=means)[0]

    def quantized(self, latent: Tensor, apply: Apply) -> Tensor:
        """Return the latent rounded around 0."""
        return GaussianCoder.quantize(latent)

    def coder(self, apply: Apply) -> Coder:
        """Return its coder."""
        return _HyperpriorCoder(self, apply)

    def update(self, scale_table: Any = None, force: bool = False) -> bool:
        """Build the tables of both latents.

        Args:
            scale_table: standard deviations, increasing; None for CompressAI's 64 from 0.11 to 256.
            force: build those anew that are there.

        Returns:
            Whether any was built.
        """
        scales = get_scale_table() if scale_table is None else scale_table
        is_built = self.gaussian_conditional.update_scale_table(scales, force=force)
        is_built |= self.entropy_bottleneck.update(force=force)
        self.updated = True
        return is_built


@register
class MSHPBasedResNetBottleneck(SHPBasedResNetBottleneck, layer.MSHPBasedResNetBottleneck):
    """sc2bench's bottleneck with a mean-scale hyperprior, which predicts the symbols' means, too.

    D. Minnen, J. Ballé and G. Toderici, "Joint autoregressive and hierarchical priors for learned
    image compression", NeurIPS 2018 (without the autoregressive part).

    Args:
        args: sc2bench's.
        kwargs: likewise.
    """

    payload_kind = BottleneckKind.MEAN_SCALE_HYPERPRIOR

    @wraps(layer.MSHPBasedResNetBottleneck.__init__)  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)

    def hyper_latent(self, latent: Tensor, apply: Apply) -> Tensor:
        """Return z [N, M, h', w'] of a latent y [N, C, h, w], whose signs tell of its means."""
        return apply(self.h_a, latent)

    def split(self, predicted: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return scales and means, the halves of what `h_s` gives."""
        scales, means = predicted.chunk(2, 1)
        return scales, means

    def quantized(self, latent: Tensor, apply: Apply) -> Tensor:
        """Return the latent rounded around the means that its quantised hyper latent predicts."""
        hyper_latent = self.hyper_latent(latent, apply)
        medians = self.entropy_bottleneck._get_medians().detach().reshape(1, -1, 1, 1)
        _, means = self.predict(quantize(hyper_latent, medians), apply, latent)
        return GaussianCoder.quantize(latent, means)


@dataclass(frozen=True)
class _Prepared:
    """A latent and what its coding depends on.

    Attributes:
        latent: y [N, C, h, w].
        hyper_latent: z [N, M, h', w'], as it is.
        rows: each symbol's table, uint8 like y.
        means: each symbol's mean like y, or None.
    """

    latent: Tensor
    hyper_latent: Tensor
    rows: Tensor
    means: Tensor | None


class _HyperpriorCoder(Coder):
    """Payloads of two parts, in sc2bench's order: first y, then z, which is decoded first."""

    def __init__(self, bottleneck: SHPBasedResNetBottleneck, apply: Apply) -> None:
        self._bottleneck, self._apply = bottleneck, apply
        self._latents = GaussianCoder(bottleneck.gaussian_conditional)
        self._hyper_latents = LatentCoder(bottleneck.entropy_bottleneck)

    def prepare(self, latent: Tensor) -> _Prepared:
        hyper_latent = self._bottleneck.hyper_latent(latent, self._apply)
        decoded = self._hyper_latents.quantize(hyper_latent)
        scales, means = self._bottleneck.predict(decoded, self._apply, latent)
        return _Prepared(latent, hyper_latent, self._latents.rows(scales), means)

    def quantize(self, prepared: _Prepared) -> Tensor:
        return self._latents.quantize(prepared.latent, prepared.means)

    def encode(self, prepared: _Prepared) -> list[list[bytes]]:
        return [
            self._latents.encode(prepared.latent, prepared.rows, prepared.means),
            self._hyper_latents.encode(prepared.hyper_latent),
        ]

    def estimate(self, prepared: _Prepared) -> list[list[int]]:
        return [
            self._latents.estimate(prepared.latent, prepared.rows, prepared.means),
            self._hyper_latents.estimate(prepared.hyper_latent),
        ]

    def shape(self, prepared: _Prepared) -> torch.Size:
        return prepared.hyper_latent.shape[-2:]

    def decode(self, strings: Sequence[Sequence[bytes]], shape: Sequence[int]) -> Tensor:
        hyper_latent = self._hyper_latents.decode(strings[1], shape)
        scales, means = self._bottleneck.predict(hyper_latent, self._apply)
        return self._latents.decode(strings[0], self._latents.rows(scales), means)
