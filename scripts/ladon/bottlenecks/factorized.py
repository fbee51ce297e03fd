"""The paper's bottleneck: one latent, each channel with a density of its own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import wraps
from typing import Any

import torch
from sc2bench.models import layer
from torch import Tensor, nn

from ladon.bottlenecks.base import Bottleneck, register
from ladon.bottlenecks.coding import Apply, Coder
from ladon.codec import BottleneckKind, LatentCoder, quantize


@register
class FPBasedResNetBottleneck(Bottleneck, layer.FPBasedResNetBottleneck):
    """sc2bench's bottleneck with a factorised prior, by its key, names and first weights.

    J. Ballé et al., "Variational image compression with a scale hyperprior", ICLR 2018;
    Y. Matsubara et al., "Supervised compression for resource-constrained edge computing systems",
    WACV 2022.

    Args:
        args: sc2bench's.
        kwargs: likewise.
    """

    payload_kind = BottleneckKind.FACTORIZED

    @wraps(layer.FPBasedResNetBottleneck.__init__)  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)

    @property
    def analysis(self) -> nn.Module:
        """The encoder."""
        return self.encoder

    @property
    def synthesis(self) -> nn.Module:
        """The decoder."""
        return self.decoder

    def noisy(self, latent: Tensor) -> Tensor:
        """Return the latent with noise, its likelihoods left to hooks."""
        return self.entropy_bottleneck(latent)[0]

    def quantized(self, latent: Tensor, apply: Apply) -> Tensor:
        """Return the latent rounded around its channels' medians."""
        medians = self.entropy_bottleneck._get_medians().detach()
        return quantize(latent, medians.reshape(1, -1, 1, 1))

    def coder(self, apply: Apply) -> Coder:
        """Return its coder."""
        return _FactorizedCoder(LatentCoder(self.entropy_bottleneck))


class _FactorizedCoder(Coder):
    """Payloads of one part; what is prepared is the latent itself."""

    def __init__(self, coder: LatentCoder) -> None:
        self._coder = coder

    def quantize(self, prepared: Tensor) -> Tensor:
        return self._coder.quantize(prepared)

    def encode(self, prepared: Tensor) -> list[list[bytes]]:
        return [self._coder.encode(prepared)]

    def estimate(self, prepared: Tensor) -> list[list[int]]:
        return [self._coder.estimate(prepared)]

    def shape(self, prepared: Tensor) -> torch.Size:
        return prepared.shape[-2:]

    def decode(self, strings: Sequence[Sequence[bytes]], shape: Sequence[int]) -> Tensor:
        return self._coder.decode(strings[0], shape)
