"""One density for every rate: a factorised prior that is read at steps of any size."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from compressai.entropy_models import EntropyBottleneck
from torch import Tensor
from torch.nn import functional

from ladon.bottlenecks.entropy import CDF_TABLES, RULES, OwnEntropyBottleneck, TableRules
from ladon.codec.rates import Rates
from ladon.codec.tables import MAX_WIDTH, as_tables, check_quantiles
from ladon.errors import CheckpointError

STEPS, RATES = "_steps", "_rates"


class VariableRateEntropyBottleneck(OwnEntropyBottleneck):
    """A factorised prior whose latent is rounded to multiples of steps that it is given.

    A symbol k of a channel with the cumulative density F, median m and step s has the probability
    F(m + (k + 1/2) s) - F(m + (k - 1/2) s). CompressAI's `EntropyBottleneckVbr` reads a density so,
    too, but with one step for all channels and all images of a batch.

    Its tables are those of all levels, one after another: `_quantized_cdf` [L C, W], `_cdf_length`
    and `_offset` [L C], and `_steps` [L, C] float32 of which they were made: sender and receiver
    multiply by equal numbers. `_rates` holds low, high and number of the levels that it learns for.
    """

    _steps: Tensor
    _rates: Tensor

    @classmethod
    def like(cls, own: EntropyBottleneck, rates: Rates) -> VariableRateEntropyBottleneck:
        """Return one with the parameters of a factorised prior; it draws no first weights."""
        made = cls.__new__(cls)
        made.__setstate__(own.__getstate__())
        made.register_buffer(STEPS, torch.empty(0))
        numbers = [rates.low, rates.high, float(rates.levels)]
        made.register_buffer(RATES, torch.tensor(numbers, dtype=torch.float64))
        return made

    def forward(  # type: ignore[override]  # of a latent there are steps
        self, x: Tensor, steps: Tensor, training: bool | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return a latent with noise, or rounded, and its symbols' likelihoods.

        Args:
            x: [N, C, h, w].
            steps: [N, C, 1, 1], above 0.
            training: add noise in ±steps/2; else round. None: as the module is.

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
            self._logits_cumulative(self._by_channel(edge), stop_gradient=False)
            for edge in (outputs - steps / 2, outputs + steps / 2)
        )
        likelihood = torch.sigmoid(upper) - torch.sigmoid(lower)
        if self.use_likelihood_bound:
            likelihood = self.likelihood_lower_bound(likelihood)
        channels, images = x.shape[1], x.shape[0]
        likelihood = likelihood.reshape(channels, images, *x.shape[2:]).transpose(0, 1)
        return outputs, likelihood.contiguous()

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
        medians = self.quantiles[:, 0, 1]
        below = ((medians - self.quantiles[:, 0, 0]) / steps).ceil().clamp(min=0)
        above = ((self.quantiles[:, 0, 2] - medians) / steps).ceil().clamp(min=0)
        lengths = (below + above + 1).int()
        if int(lengths.max()) > MAX_WIDTH:
            level, channel = divmod(int(lengths.argmax()), len(medians))
            raise CheckpointError(
                f"level {level}, channel {channel}: a step of {float(steps[level, channel]):.3g} "
                f"makes {int(lengths.max())} symbols of its range, over {MAX_WIDTH}"
            )
        width = int(lengths.max())
        tables = []
        for step, start, length in zip(steps, below, lengths, strict=True):
            pmf, tails = self._masses(medians - start * step, step, length)
            made = self._pmf_to_cdf(pmf, tails, length, int(length.max()))
            tables.append(functional.pad(made, (0, width + 2 - made.shape[1])))
        self._quantized_cdf = torch.cat(tables)
        self._cdf_length = (lengths + 2).reshape(-1)
        self._offset = -below.int().reshape(-1)
        self._steps = steps

    def _masses(self, first: Tensor, step: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return probabilities of a level's symbols [C, longest], and of all others [C, 1].

        Args:
            first: value of each channel's first symbol [C].
            step: of each channel [C].
            lengths: number of each channel's symbols [C]; what follows them is not to be read.
        """
        places = torch.arange(int(lengths.max()), device=step.device)[None]
        values = (first[:, None] + places * step[:, None])[:, None]
        half = step[:, None, None] / 2
        lower, upper = (
            self._logits_cumulative(edge, stop_gradient=True)[:, 0]
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
