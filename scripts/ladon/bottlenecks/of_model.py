"""The bottleneck of a model: finding it, its tables, its noise, and coding in an evaluation."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import torch
from compressai.entropy_models import EntropyBottleneck
from sc2bench.models.layer import BaseBottleneck
from torch import Tensor, nn

from ladon.bottlenecks.base import Bottleneck
from ladon.bottlenecks.coding import Coding
from ladon.bottlenecks.encoder import pinned_arithmetic
from ladon.bottlenecks.entropy import (
    draw_noise_from,
    entropy_models,
    has_tables,
    set_tables,
    tables,
)
from ladon.bottlenecks.payloads import PayloadSizes
from ladon.codec.tables import check_quantiles

logger = logging.getLogger(__name__)


def find_bottleneck(model: nn.Module) -> BaseBottleneck | None:
    """Return the model's bottleneck, of whatever kind, or None."""
    return next((m for m in model.modules() if isinstance(m, BaseBottleneck)), None)


def known_bottleneck(model: nn.Module) -> Bottleneck | None:
    """Return the model's bottleneck if it follows this library's protocol.

    Others, of sc2bench or of a user's own, are trained, and code by themselves.
    """
    bottleneck = find_bottleneck(model)
    return bottleneck if isinstance(bottleneck, Bottleneck) else None


def is_updated(model: nn.Module) -> bool:
    """Whether the model has a bottleneck whose CDF tables are built (entropy coding is on)."""
    bottleneck = find_bottleneck(model)
    return bottleneck is not None and bool(bottleneck.updated)


def set_updated(model: nn.Module, updated: bool) -> None:
    """Set the flags by which sc2bench's modules choose between noise and entropy coding."""
    for module in model.modules():
        if isinstance(module, BaseBottleneck):
            module.updated = updated
        if hasattr(module, "bottleneck_updated"):
            setattr(module, "bottleneck_updated", updated)  # noqa: B010  (a plain attribute)


def update_bottleneck(model: nn.Module) -> bool:
    """Build the CDF tables where they are missing and switch entropy coding on.

    Returns:
        Whether the model has a bottleneck.

    Raises:
        CheckpointError: if its quantiles are none that tables can be built of.
    """
    bottleneck = find_bottleneck(model)
    if bottleneck is None:
        return False
    for module in entropy_models(bottleneck).values():
        if isinstance(module, EntropyBottleneck) and not has_tables(module):
            check_quantiles(module.quantiles)  # a training may have driven them anywhere
    bottleneck.update()  # leaves tables that are already there as they are
    set_updated(model, True)
    return True


def forget_tables(model: nn.Module) -> None:
    """Empty a model's CDF tables and switch entropy coding off: its densities learn again."""
    set_tables(model, {name: table.new_empty(0) for name, table in tables(model).items()})
    set_updated(model, False)


def auxiliary_loss(model: nn.Module) -> Tensor | None:
    """Return the loss by which quantiles follow the densities, as long as they are learnt.

    There is no data in it. Once the tables are built, or where no quantiles learn, it is None.
    """
    bottleneck = find_bottleneck(model)
    if bottleneck is None or bottleneck.updated:
        return None
    learn = (
        isinstance(module, EntropyBottleneck) and module.quantiles.requires_grad
        for module in entropy_models(bottleneck).values()
    )
    return bottleneck.aux_loss() if any(learn) else None


def use_own_noise(model: nn.Module, seed: int, device: torch.device) -> torch.Generator | None:
    """Draw the student's quantisation noise from a generator of its own.

    CompressAI draws from torch's global generator, so that any other draw would change the
    training. Returns the generator (to be saved with the run), or None for a model without a
    bottleneck.
    """
    bottleneck = find_bottleneck(model)
    if bottleneck is None:
        return None
    generator = torch.Generator(device=device)
    generator.manual_seed(seed)
    draw_noise_from(bottleneck, generator)
    return generator


def levels_of(model: nn.Module, betas: Sequence[float]) -> list[int | None]:
    """Return a model's levels of rate that are nearest to β; [None] where it has one rate.

    Args:
        model: the model.
        betas: none: the level that it is at.

    Raises:
        UsageError: it has no such rates.
    """
    bottleneck = known_bottleneck(model)
    if bottleneck is None or bottleneck.rates is None or not betas:
        return [None]
    return [bottleneck.rates.level(beta) for beta in betas]


def rate_of(model: nn.Module, level: int | None) -> float | None:
    """Return β of a level, or of the level that the model is at; None where it has one rate."""
    bottleneck = known_bottleneck(model)
    if bottleneck is None or bottleneck.rates is None:
        return None
    return bottleneck.rates.beta(bottleneck.level if level is None else level)


def at_level(model: nn.Module, level: int | None) -> AbstractContextManager[None]:
    """Within it, this thread's evaluation codes at a level of rate; None changes nothing."""
    bottleneck = known_bottleneck(model)
    if level is None or bottleneck is None:
        return nullcontext()
    return bottleneck.coding.at_level(level)


def encode_once(model: nn.Module) -> None:
    """Let a model that passes the same images several times, for each rate, encode them once."""
    bottleneck = known_bottleneck(model)
    if bottleneck is not None:
        bottleneck.coding.reuses_latents = True


@contextmanager
def entropy_coding(model: nn.Module, mode: str = "full") -> Iterator[PayloadSizes]:
    """Evaluate a model with its bottleneck coded, whatever the batch size.

    While it is open, each image's latent is turned into a payload of its own. Before `update()`
    there are no tables to code with: the quantised latent is decoded, as sc2bench does it, but
    without the likelihoods, which nothing in an evaluation reads.

    Open it in the main thread, around all threads that compute (see `pinned_arithmetic`).

    Args:
        model: model in eval mode; one without a bottleneck of a known kind is left as it is.
        mode: one of `ladon.choices.MODES`. Coding is lossless, so scores are the same in all of
            them; sizes are those of real payloads in the first two.

    Yields:
        PayloadSizes, filled by each forward pass.
    """
    payloads = PayloadSizes()
    bottleneck = find_bottleneck(model)
    with ExitStack() as stack:
        stack.enter_context(pinned_arithmetic())
        if isinstance(bottleneck, Bottleneck):
            stack.enter_context(bottleneck.coded_by(Coding(bottleneck, mode, payloads)))
        elif bottleneck is not None:
            logger.warning("sc2bench codes this bottleneck itself: data sizes are not recorded")
        yield payloads
