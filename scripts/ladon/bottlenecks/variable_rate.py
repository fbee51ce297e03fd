"""One model for every rate: the paper's bottleneck with a step size that follows β."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ladon.bottlenecks.base import register
from ladon.bottlenecks.coding import Apply, Coder
from ladon.bottlenecks.entropy import CDF_TABLES, Draws, has_tables
from ladon.bottlenecks.factorized import FPBasedResNetBottleneck
from ladon.bottlenecks.variable_entropy import RATES, STEPS, VariableRateEntropyBottleneck
from ladon.codec import BottleneckKind, LeveledCoder, quantize
from ladon.codec.rates import Rates

MODULATED = ("latent", "output")
# what a bottleneck of one rate has not
_ADDED = (
    "step_sizes.",
    "decoder.before.",
    "decoder.after.",
    f"entropy_bottleneck.{STEPS}",
    f"entropy_bottleneck.{RATES}",
)


class StepSizes(nn.Module):
    """Step size of each channel at each rate, which rises with β whatever is learnt.

    log s = a t + Σ_j w_j tanh(v_j t + b_j), with t from -1 to 1 in log β, and a, w and v above 0.

    Args:
        channels: C, or 1 for a step that all share.
        hidden: terms of the sum.
    """

    # the first steps go from 0.3 to 3.3, around the 1 of a fixed rate
    FIRST_SLOPE = 1.2

    def __init__(self, channels: int, hidden: int = 16) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.full((channels,), _inverse_softplus(self.FIRST_SLOPE)))
        self.weight = nn.Parameter(torch.full((channels, hidden), _inverse_softplus(0.01)))
        self.inner = nn.Parameter(torch.full((hidden,), _inverse_softplus(2.0)))
        self.bias = nn.Parameter(torch.linspace(-2, 2, hidden))
        self.offset = nn.Parameter(torch.zeros(channels))

    def forward(self, positions: Tensor) -> Tensor:
        """Return steps [N, C] at positions [N]."""
        t = positions[:, None]
        bends = torch.tanh(functional.softplus(self.inner) * t + self.bias)
        log_steps = functional.softplus(self.slope) * t + self.offset
        return torch.exp(log_steps + bends @ functional.softplus(self.weight).T)


def _inverse_softplus(value: float) -> float:
    return float(torch.log(torch.expm1(torch.tensor(value))))


class Modulation(nn.Module):
    """Scale and shift of each channel that follow the rate; at first they change nothing.

    E. Perez et al., "FiLM: visual reasoning with a general conditioning layer", AAAI 2018.

    Args:
        channels: K.
        hidden: width of the layer between.
    """

    def __init__(self, channels: int, hidden: int = 16) -> None:
        super().__init__()
        self.hidden = nn.Linear(1, hidden)
        self.output = nn.Linear(hidden, 2 * channels)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        """Modulate features [N, K, H, W] at positions [N]."""
        scale, shift = self.output(torch.tanh(self.hidden(positions[:, None]))).chunk(2, 1)
        return x * (1 + scale[:, :, None, None]) + shift[:, :, None, None]


class ModulatedDecoder(nn.Sequential):
    """A decoder that is told the rate by one channel more than the latent has.

    So a batch may have several rates, and all that is between coder and decoder handles one tensor.
    Its layers keep the names that they have without it.

    Args:
        layers: the decoder.
        before: modulation of the latent, or None.
        after: of the output, or None.
    """

    def __init__(
        self, layers: nn.Sequential, before: Modulation | None, after: Modulation | None
    ) -> None:
        children = {"before": before, **dict(layers.named_children()), "after": after}
        super().__init__(OrderedDict((name, m) for name, m in children.items() if m is not None))

    def forward(self, x: Tensor) -> Tensor:
        """Decode [N, C + 1, h, w], whose last channel holds the rates' positions."""
        positions = x[:, -1, 0, 0]
        x = x[:, :-1].contiguous(memory_format=torch.channels_last)
        for layer in self:
            x = layer(x, positions) if isinstance(layer, Modulation) else layer(x)
        return x


class LevelDraw(Draws, nn.Module):
    """Draws each image's level of rate in training, all of them equally often.

    Losses find the levels and their β here by a forward hook.

    Args:
        rates: the levels.
    """

    def __init__(self, rates: Rates) -> None:
        super().__init__()
        self.rates = rates

    def forward(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return levels, positions and β of N images, on their device: int64, float32, float32."""
        levels = torch.randint(
            self.rates.levels, (len(like),), generator=self.generator, device=like.device
        )
        return levels, self.rates.positions(levels), self.rates.betas(levels)


@register
class VariableRateBottleneck(FPBasedResNetBottleneck):
    """The paper's bottleneck at any rate: steps that follow β, one density, a decoder that is told.

    Encoder, decoder and entropy bottleneck have the names and shapes of
    `FPBasedResNetBottleneck`'s. In training each image has a rate drawn for it; in evaluation all
    have that of `level`, or of the level that each one names.

    Args:
        num_input_channels: of images.
        num_bottleneck_channels: C.
        num_target_channels: K of the features.
        encoder_channel_sizes: as sc2bench's.
        decoder_channel_sizes: as sc2bench's.
        beta: `low` and `high`, the range of β.
        levels: of rate.
        hidden: width of what steps and modulation are computed by.
        per_channel: whether each channel has a step of its own, or all have one.
        modulated: what scale and shift follow the rate of: `latent` (the decoder's input) and
            `output`.
        priors: densities, each for as many neighbouring levels.
        rounds: whether the decoder learns from rounded latents, too, and only the density from
            noisy ones: see `noisy`.
        draws_rounded: whether rates are drawn for rounded latents in training, too; else they have
            that of `level`. With noise they always are.

    Raises:
        ValueError: rates are no range, there cannot be as many densities, or `modulated` names
            something else.
    """

    payload_kind = BottleneckKind.VARIABLE_RATE
    rates: Rates
    decoder: nn.Sequential
    entropy_bottleneck: VariableRateEntropyBottleneck

    def __init__(
        self,
        num_input_channels: int = 3,
        num_bottleneck_channels: int = 24,
        num_target_channels: int = 256,
        encoder_channel_sizes: Sequence[int] | None = None,
        decoder_channel_sizes: Sequence[int] | None = None,
        beta: dict[str, float] | None = None,
        levels: int = 61,
        hidden: int = 16,
        *,
        per_channel: bool = True,
        modulated: Sequence[str] = MODULATED,
        priors: int = 1,
        rounds: bool = True,
        draws_rounded: bool = True,
    ) -> None:
        super().__init__(  # type: ignore[call-arg]  # a wrapped method, to mypy
            num_input_channels=num_input_channels,
            num_bottleneck_channels=num_bottleneck_channels,
            num_target_channels=num_target_channels,
            encoder_channel_sizes=encoder_channel_sizes,
            decoder_channel_sizes=decoder_channel_sizes,
        )
        if unknown := set(modulated) - set(MODULATED):
            names = ", ".join(sorted(unknown))
            raise ValueError(f"modulated: {names}; known: {', '.join(MODULATED)}")
        self.rates = Rates(levels=levels, **(beta or {}))
        self.level = self.rates.middle
        prior = self.entropy_bottleneck
        self.entropy_bottleneck = VariableRateEntropyBottleneck.like(prior, self.rates, priors)
        features = decoder_channel_sizes[-1] if decoder_channel_sizes else num_target_channels
        latents = self.entropy_bottleneck.channels
        self.decoder = ModulatedDecoder(
            self.decoder,
            Modulation(latents, hidden) if "latent" in modulated else None,
            Modulation(features, hidden) if "output" in modulated else None,
        )
        self.step_sizes = StepSizes(latents if per_channel else 1, hidden)
        self.rounds, self.draws_rounded = rounds, draws_rounded
        self.draw = LevelDraw(self.rates)

    def completed(self, state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """Return the tensors of a bottleneck of one rate with steps, modulation and no tables.

        At the level in the middle, whose step is 1 or nearly so, it then computes what that
        bottleneck does.
        """
        own = self.state_dict()
        added = {name for name in own if name.startswith(_ADDED)}
        if own.keys() - state.keys() != added or not state.keys() <= own.keys():
            return None
        fresh = {name for name in own if name.rsplit(".", 1)[-1] in CDF_TABLES}
        return {name: own[name] if name in added | fresh else state[name] for name in own}

    def noisy(self, latent: Tensor) -> Tensor:
        """Return the latent at drawn rates, its likelihoods with noise left to hooks.

        What is decoded is rounded, and its gradient is the latent's (D. Minnen, S. Singh,
        "Channel-wise autoregressive entropy models for learned image compression", ICIP 2020). Of
        a channel that few bytes leave no room for, rounding leaves nothing; noise as wide as the
        greatest steps would drown it for the decoder, so that it is given up at all rates.
        """
        levels, positions, _ = self.draw(latent)
        steps = self._steps_at(positions)[:, :, None, None]
        noisy = self.entropy_bottleneck(latent, steps, levels=levels)[0]
        if not self.rounds:
            return _told(noisy, positions)
        medians = self.entropy_bottleneck._get_medians().detach().reshape(1, -1, 1, 1)
        symbols = (latent - medians) / steps
        symbols = symbols + (torch.round(symbols) - symbols).detach()
        return _told(symbols * steps + medians, positions)

    def quantized(self, latent: Tensor, apply: Apply) -> Tensor:
        """Return the latent rounded: at drawn rates in training, else at its own level."""
        if self.training and self.draws_rounded:
            levels = self.draw(latent)[0]
        else:
            levels = torch.full((len(latent),), self.level, device=latent.device)
        positions = self.rates.positions(levels)
        tables = self.entropy_bottleneck
        steps = tables._steps[levels] if has_tables(tables) else self._steps_at(positions).detach()
        medians = tables._get_medians().detach().reshape(1, -1, 1, 1)
        return _told(quantize(latent, medians, steps[:, :, None, None]), positions)

    def _steps_at(self, positions: Tensor) -> Tensor:
        """Return every channel's step [N, C] at positions [N]."""
        return self.step_sizes(positions).expand(-1, self.entropy_bottleneck.channels)

    def coder(self, apply: Apply) -> Coder:
        """Return its coder."""
        return _VariableRateCoder(LeveledCoder(self.entropy_bottleneck), self.rates, ())

    def update(self, scale_table: Any = None, force: bool = False, **_: Any) -> bool:
        """Build the tables of all levels.

        Args:
            scale_table: not used.
            force: build them anew where they are there.

        Returns:
            Whether they were built.

        Raises:
            CheckpointError: densities or steps are none that tables can be built of.
        """
        builds = force or not has_tables(self.entropy_bottleneck)
        if builds:
            levels = torch.arange(self.rates.levels, device=self.step_sizes.slope.device)
            self.entropy_bottleneck.build(self._steps_at(self.rates.positions(levels)))
        self.updated = True
        return builds


def _told(latent: Tensor, positions: Tensor) -> Tensor:
    """Return a latent [N, C, h, w] with the rates' positions [N] as its last channel."""
    told = positions.to(latent.dtype)[:, None, None, None].expand(-1, 1, *latent.shape[2:])
    return torch.cat([latent, told], dim=1)


@dataclass(frozen=True)
class _VariableRateCoder(Coder):
    """Payloads of one part; what is prepared is the latent itself."""

    latents: LeveledCoder
    rates: Rates
    levels: Sequence[int]

    def at(self, levels: Sequence[int]) -> Coder:
        return _VariableRateCoder(self.latents, self.rates, levels)

    def _told(self, latent: Tensor) -> Tensor:
        levels = torch.tensor(self.levels, device=latent.device)
        return _told(latent, self.rates.positions(levels))

    def quantize(self, prepared: Tensor) -> Tensor:
        return self._told(self.latents.quantize(prepared, self.levels))

    def encode(self, prepared: Tensor) -> list[list[bytes]]:
        return [self.latents.encode(prepared, self.levels)]

    def estimate(self, prepared: Tensor) -> list[list[int]]:
        return [self.latents.estimate(prepared, self.levels)]

    def shape(self, prepared: Tensor) -> torch.Size:
        return prepared.shape[-2:]

    def decode(self, strings: Sequence[Sequence[bytes]], shape: Sequence[int]) -> Tensor:
        return self._told(self.latents.decode(strings[0], shape, self.levels))
