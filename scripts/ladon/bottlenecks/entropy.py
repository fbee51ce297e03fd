"""Entropy models in a model: their noise, their tables, and the rules for these in checkpoints.

All of it holds for CompressAI's entropy models wherever they are, in a bottleneck or in anybody's
model. A kind of bottleneck with an entropy model of another sort adds its rules to `RULES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from compressai.entropy_models import EntropyBottleneck, GaussianConditional
from torch import Tensor, nn

from ladon.codec.tables import as_scale_tables, as_tables, check_quantiles, check_scales
from ladon.errors import CheckpointError

CDF_TABLES = ("_quantized_cdf", "_cdf_length", "_offset")
"""Buffers that `update()` fills, of every entropy model."""


class Draws:
    """A module that draws at random, from a generator that it is given.

    Attributes:
        generator: None: torch's global one.
    """

    generator: torch.Generator | None = None


class _OwnNoise(Draws):
    """An entropy model whose noise comes from a generator that it is given.

    CompressAI adds uniform noise in [-0.5, 0.5) from torch's global generator, so that any other
    draw would change the training.
    """

    def quantize(self, inputs: Tensor, mode: str, means: Tensor | None = None) -> Tensor:
        """Round, or add noise (mode `noise`), as CompressAI's `quantize` does."""
        if mode != "noise" or self.generator is None:
            return super().quantize(inputs, mode, means)  # type: ignore[misc]  # EntropyModel's
        return inputs + torch.empty_like(inputs).uniform_(-0.5, 0.5, generator=self.generator)


class OwnEntropyBottleneck(_OwnNoise, EntropyBottleneck):
    """CompressAI's factorised prior with noise of its own, and a forward that never waits."""

    def forward(self, x: Tensor, training: bool | None = None) -> tuple[Tensor, Tensor]:
        """Return [N, C, ...] with noise, or rounded, and likelihoods of the same shape.

        As CompressAI's to the bit, but the order of dimensions is known to the host: CompressAI
        keeps it in a tensor on the device, and reads that eight times in each step.
        """
        training = self.training if training is None else training
        by_channel = x.transpose(0, 1).contiguous()
        values = by_channel.reshape(x.size(1), 1, -1)
        outputs = self.quantize(values, "noise" if training else "dequantize", self._get_medians())
        likelihood, _, _ = self._likelihood(outputs)
        if self.use_likelihood_bound:
            likelihood = self.likelihood_lower_bound(likelihood)
        outputs, likelihood = (
            part.reshape(by_channel.shape).transpose(0, 1).contiguous()
            for part in (outputs, likelihood)
        )
        return outputs, likelihood


class OwnGaussianConditional(_OwnNoise, GaussianConditional):
    """CompressAI's Gaussian conditional with noise of its own."""


_OWN: dict[type[nn.Module], Any] = {
    EntropyBottleneck: OwnEntropyBottleneck,
    GaussianConditional: OwnGaussianConditional,
}


def own_entropy_models(module: nn.Module) -> None:
    """Put entropy models that draw their noise from a given generator in CompressAI's place.

    They take over everything, parameters, buffers and hooks, and draw no first weights. Subclasses
    of CompressAI's are left alone.

    Args:
        module: what holds them, at any depth.
    """
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if type(child) in _OWN:
                own = _OWN[type(child)]
                made = own.__new__(own)
                made.__setstate__(child.__getstate__())
                parent._modules[name] = made


def draw_noise_from(module: nn.Module, generator: torch.Generator) -> None:
    """Let what draws in a module, its entropy models' noise, draw from one generator."""
    own_entropy_models(module)
    for part in module.modules():
        if isinstance(part, Draws):
            part.generator = generator


@dataclass(frozen=True)
class TableRules:
    """Rules for the tables of a sort of entropy model.

    Attributes:
        names: its buffers that `update()` fills: a checkpoint's may have another size than those
            of a fresh module.
        check: takes the module and a checkpoint's tensors by the module's names, and raises
            CheckpointError unless a coder can read them, or tables can be built.
    """

    names: tuple[str, ...]
    check: Callable[[Any, Mapping[str, Tensor]], None]


def _check_factorized(module: EntropyBottleneck, tensors: Mapping[str, Tensor]) -> None:
    cdf, length, offset = (tensors[name] for name in CDF_TABLES)
    if module.channels == 0:
        raise CheckpointError("a bottleneck of no channels")
    if any(table.numel() for table in (cdf, length, offset)):
        as_tables(cdf, length, offset, module.channels)
    elif bool(tensors["quantiles"].isfinite().all()):  # else the first bad tensor is named for it
        check_quantiles(tensors["quantiles"])


def _check_gaussian(module: GaussianConditional, tensors: Mapping[str, Tensor]) -> None:
    cdf, length, offset, scales = (tensors[name] for name in (*CDF_TABLES, "scale_table"))
    if scales.is_floating_point():
        scales = scales.to(module.scale_table.dtype)  # what differs in float64 may not do so there
    if any(table.numel() for table in (cdf, length, offset)):
        as_scale_tables(cdf, length, offset, scales)
    elif scales.numel():
        check_scales(scales)


RULES: dict[type[nn.Module], TableRules] = {
    EntropyBottleneck: TableRules(CDF_TABLES, _check_factorized),
    GaussianConditional: TableRules((*CDF_TABLES, "scale_table"), _check_gaussian),
}
"""Rules by class of entropy model; they hold for its subclasses, too."""


def rules_of(module: nn.Module) -> TableRules | None:
    """Return the rules for a module's tables; None if it is no entropy model."""
    return next((RULES[kind] for kind in type(module).__mro__ if kind in RULES), None)


def entropy_models(module: nn.Module) -> dict[str, nn.Module]:
    """Return the entropy models in a module, by their names there."""
    return {name: part for name, part in module.named_modules() if rules_of(part) is not None}


def tables(module: nn.Module) -> dict[str, Tensor]:
    """Return the tables of the entropy models in a module, by their names in its state dict."""
    return {
        f"{name}.{table}" if name else table: getattr(part, table)
        for name, part in entropy_models(module).items()
        if (rules := rules_of(part)) is not None
        for table in rules.names
    }


def set_tables(module: nn.Module, given: Mapping[str, Tensor]) -> None:
    """Put tables of any size in the place of a module's, on their devices.

    Args:
        module: as for `tables`.
        given: some or all of what that names.
    """
    for name, table in given.items():
        path, _, attribute = name.rpartition(".")
        part = module.get_submodule(path)
        setattr(part, attribute, table.to(getattr(part, attribute).device))


def has_tables(entropy_model: Any) -> bool:
    """Whether an entropy model's tables are built."""
    return entropy_model._offset.numel() > 0
