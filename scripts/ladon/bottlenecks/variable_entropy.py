"""One density for every rate: a factorised prior that is read at steps of any size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import torch
from compressai.entropy_models import EntropyBottleneck
from torch import Tensor
from torch.nn import functional

from ladon.bottlenecks.entropy import CDF_TABLES, RULES, OwnEntropyBottleneck, TableRules
from ladon.codec.rates import Rates
from ladon.codec.tables import MAX_WIDTH, as_tables, check_quantiles
from ladon.errors import CheckpointError

STEPS, RATES = "_steps", "_rates"
_Level = TypeVar("_Level", int, Tensor)


class VariableRateEntropyBottleneck(OwnEntropyBottleneck):
    """A factorised prior whose latent is rounded to multiples of steps that it is given.

    A symbol k of a channel with the cumulative density F, median m and step s has the probability
    F(m + (k + 1/2) s) - F(m + (k - 1/2) s). CompressAI's `EntropyBottleneckVbr` reads a density so,
    too, but with one step for all channels and all images of a batch.

    Its tables are those of all levels, one after another: `_quantized_cdf` [L C, W], `_cdf_length`
    and `_offset` [L C], and `_steps` [L, C] float32 of which they were made: sender and receiver
    multiply by equal numbers. `_rates` holds low, high and number of the levels that it learns for.

    There may be several densities, each for as many neighbouring levels. Its parameters are those
    of all, one after another: [P C, ...]. The medians are the first one's.
    """

    _steps: Tensor
    _rates: Tensor
    priors: int
    levels: int

    @classmethod
    def like(
        cls, own: EntropyBottleneck, rates: Rates, priors: int = 1
    ) -> VariableRateEntropyBottleneck:
        """Return one with the parameters of a factorised prior; it draws no first weights.

        Raises:
            ValueError: there cannot be as many densities.
        """
        if not 1 <= priors <= rates.levels:
            raise ValueError(f"{priors} densities for {rates.levels} levels")
        made = cls.__new__(cls)
        made.__setstate__(own.__getstate__())
        made.priors, made.levels = priors, rates.levels
        for parameter in made.parameters():
            parameter.data = parameter.data.repeat(priors, 1, 1)
        made.register_buffer(STEPS, torch.empty(0))
        numbers = [rates.low, rates.high, float(rates.levels)]
        made.register_buffer(RATES, torch.tensor(numbers, dtype=torch.float64))
        return made

    def forward(  # type: ignore[override]  # of a latent there are steps
        self,
        x: Tensor,
        steps: Tensor,
        training: bool | None = None,
        levels: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return a latent with noise, or rounded, and its symbols' likelihoods.

        Args:
            x: [N, C, h, w].
            steps: [N, C, 1, 1], above 0.
            training: add noise in ±steps/2; else round. None: as the module is.
            levels: [N] int64, which say whose density it is; None: the first one's.

        Returns:
            Two of x's shape.
        """
        training = self.training if training is None else training
        if training:
            outputs = x + self.quantize(torch.zeros_like(x), "noise") * steps
        else:
            medians = self._get_medians().reshape(1, -1, 1, 1)
            outputs = torch.round((x - medians) / steps) * steps + medians
        lower, upper = (
            self._logits(self._by_channel(edge), levels)
            for edge in (outputs - steps / 2, outputs + steps / 2)
        )
        likelihood = torch.sigmoid(upper) - torch.sigmoid(lower)
        if self.use_likelihood_bound:
            likelihood = self.likelihood_lower_bound(likelihood)
        channels, images = x.shape[1], x.shape[0]
        likelihood = likelihood.reshape(channels, images, *x.shape[2:]).transpose(0, 1)
        return outputs, likelihood.contiguous()

    def _logits(self, values: Tensor, levels: Tensor | None) -> Tensor:
        """Return the logits of F, each image's of its level's density: [C, 1, N n]."""
        if self.priors == 1:
            return self._logits_cumulative(values, stop_gradient=False)
        channels, _, places = values.shape
        found = self._logits_cumulative(values.repeat(self.priors, 1, 1), stop_gradient=False)
        if levels is None:
            return found[:channels]
        images = len(levels)
        by_image = found.reshape(self.priors, channels, images, -1).permute(2, 0, 1, 3)
        own = by_image[torch.arange(images, device=levels.device), self._prior(levels)]
        return own.transpose(0, 1).reshape(channels, 1, places)

    def _prior(self, level: _Level) -> _Level:
        """Return the place of a level's density."""
        return level * self.priors // self.levels

    def _get_medians(self) -> Tensor:
        return self.quantiles[: self.channels, :, 1:2]

    @staticmethod
    def _by_channel(x: Tensor) -> Tensor:
        return x.transpose(0, 1).reshape(x.shape[1], 1, -1)

    @torch.no_grad()
    def build(self, steps: Tensor) -> None:
        """Build the tables.

        Args:
            steps: [L, C] of each level.

        Raises:
            CheckpointError: the density or a step is none that a table can be built of.
        """
        steps = steps.detach().float()
        _check_steps(steps)
        medians = self._get_medians().reshape(-1)
        own = [self._prior(level) for level in range(len(steps))]
        quantiles = self.quantiles[:, 0].reshape(self.priors, self.channels, 3)[own]
        below = ((medians - quantiles[..., 0]) / steps).ceil().clamp(min=0)
        above = ((quantiles[..., 2] - medians) / steps).ceil().clamp(min=0)
        lengths = (below + above + 1).int()
        if int(lengths.max()) > MAX_WIDTH:
            level, channel = divmod(int(lengths.argmax()), len(medians))
            raise CheckpointError(
                f"level {level}, channel {channel}: a step of {float(steps[level, channel]):.3g} "
                f"makes {int(lengths.max())} symbols of its range, over {MAX_WIDTH}"
            )
        width = int(lengths.max())
        tables = []
        for prior, step, start, length in zip(own, steps, below, lengths, strict=True):
            pmf, tails = self._masses(prior, medians - start * step, step, length)
            made = self._pmf_to_cdf(pmf, tails, length, int(length.max()))
            tables.append(functional.pad(made, (0, width + 2 - made.shape[1])))
        self._quantized_cdf = torch.cat(tables)
        self._cdf_length = (lengths + 2).reshape(-1)
        self._offset = -below.int().reshape(-1)
        self._steps = steps

    def _masses(
        self, prior: int, first: Tensor, step: Tensor, lengths: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return probabilities of a level's symbols [C, longest], and of all others [C, 1].

        Args:
            prior: place of its density.
            first: value of each channel's first symbol [C].
            step: of each channel [C].
            lengths: number of each channel's symbols [C]; what follows them is not to be read.
        """
        places = torch.arange(int(lengths.max()), device=step.device)[None]
        values = (first[:, None] + places * step[:, None])[:, None]
        half = step[:, None, None] / 2
        rows = slice(prior * self.channels, (prior + 1) * self.channels)
        lower, upper = (
            self._logits_cumulative(edge.repeat(self.priors, 1, 1), stop_gradient=True)[rows, 0]
            for edge in (values - half, values + half)
        )
        end = upper.gather(1, lengths[:, None].long() - 1)
        masses = torch.sigmoid(upper) - torch.sigmoid(lower)
        return masses, torch.sigmoid(lower[:, :1]) + torch.sigmoid(-end)

    def update(self, force: bool = False, update_quantiles: bool = False) -> bool:
        """Refuse to build tables: `build` needs the steps, which the bottleneck has.

        Returns:
            False, where they are there.
        """
        if self._offset.numel() > 0 and not force:
            return False
        raise CheckpointError("tables of several rates are built by the bottleneck's update()")


def _check_steps(steps: Tensor) -> None:
    if steps.dim() != 2 or not steps.is_floating_point() or not steps.numel():
        raise CheckpointError(f"steps of shape {tuple(steps.shape)} of {steps.dtype}, not [L, C]")
    if not bool((steps.isfinite() & (steps > 0)).all()):
        raise CheckpointError("a step of a rate level is not a number above 0")


def _check(module: VariableRateEntropyBottleneck, tensors: Mapping[str, Tensor]) -> None:
    """Look at a checkpoint's tables and steps: all of them are there, or none."""
    if module.channels == 0:
        raise CheckpointError("a bottleneck of no channels")
    own, found = (_in_words(rates) for rates in (module._rates, tensors[RATES]))
    if own != found:
        raise CheckpointError(f"it has learnt {found}, and the config says {own}")
    cdf, length, offset = (tensors[name] for name in CDF_TABLES)
    if not any(table.numel() for table in (cdf, length, offset)):
        if bool(tensors["quantiles"].isfinite().all()):
            check_quantiles(tensors["quantiles"])
        return
    steps = tensors[STEPS]
    _check_steps(steps)
    if steps.shape != (int(module._rates[2]), module.channels):
        raise CheckpointError(
            f"{STEPS} has steps of {len(steps)} levels and {steps.shape[1]} channels, the latent "
            f"has {int(module._rates[2])} and {module.channels}"
        )
    as_tables(cdf, length, offset, steps.numel(), "level's channel", STEPS)


def _in_words(rates: Tensor) -> str:
    if rates.shape != (3,):
        return f"rates of shape {tuple(rates.shape)}"
    low, high, levels = rates.tolist()
    return f"β from {low:g} to {high:g} in {levels:g} levels"


RULES[VariableRateEntropyBottleneck] = TableRules((*CDF_TABLES, STEPS), _check)
