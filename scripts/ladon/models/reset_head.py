"""A model's class layers, whose size follows from the number of classes, and starting without them.

They are told from no table of names: a model is built twice without weights, with two numbers of
classes, and the tensors that differ in shape are theirs. So `fc`, a detector's `cls_score` and
`bbox_pred`, the two heads of a segmenter and those of a network of one's own are all found.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ladon.errors import ConfigError, LadonError
from ladon.models.checkpoint import Checkpoint, load_into
from ladon.models.fit import wrapped_as

logger = logging.getLogger(__name__)

_TRIED = (7, 8)


@dataclass(frozen=True)
class _Size:
    """A tensor's size along `axis`: `per_class` times the number of classes, plus `rest`."""

    axis: int
    per_class: int
    rest: int

    def num_classes(self, tensor: Tensor) -> int | None:
        if self.axis >= tensor.dim() or not self.per_class:
            return None
        count, odd = divmod(tensor.shape[self.axis] - self.rest, self.per_class)
        return None if odd else count


@dataclass(frozen=True)
class ClassLayers:
    """The layers of a model whose outputs count its classes.

    Attributes:
        names: their paths in the model; a tensor that is in no layer goes by its own name.
        sizes: of their tensors by name.
    """

    names: tuple[str, ...]
    sizes: Mapping[str, _Size]

    def __str__(self) -> str:
        return ", ".join(self.names)

    def holds(self, tensor: str) -> bool:
        """Whether a tensor, by its name in the model, is one of theirs."""
        return _layer_of(tensor) in self.names

    def num_classes(self, state: Mapping[str, Tensor]) -> int | None:
        """Return how many classes a model's tensors are for; None if they do not tell.

        Args:
            state: the tensors by name.
        """
        counts = (s.num_classes(state[name]) for name, s in self.sizes.items() if name in state)
        return next((count for count in counts if count is not None), None)


def find_class_layers(build: Callable[[int], nn.Module], where: str) -> ClassLayers:
    """Return the class layers of a model; random numbers are drawn as if nothing had been built.

    Args:
        build: builds the model, weightless, for a number of classes.
        where: who asks and of which model, for errors.

    Raises:
        ConfigError: it has none.
    """
    with torch.random.fork_rng(devices=[]):
        try:
            few, more = (build(number).state_dict() for number in _TRIED)
        except ConfigError as error:
            text = f"{where} has no class layer that num_classes would tell: {error}"
            raise ConfigError(text) from error
    differing = [n for n in {**few, **more} if _shape(few, n) != _shape(more, n)]
    if not differing:
        raise ConfigError(f"{where} has no class layer: num_classes changes nothing in it")
    sizes = {n: _size(few[n], more[n]) for n in differing if n in few and n in more}
    return ClassLayers(tuple(dict.fromkeys(map(_layer_of, differing))), sizes)


def load_without(model: nn.Module, checkpoint: Checkpoint, layers: ClassLayers, where: str) -> None:
    """Load a checkpoint, strictly as ever, but for the class layers, which stay as they are.

    Args:
        model: the model.
        checkpoint: whose class layers may be of any number of classes, or missing.
        layers: the model's class layers.
        where: the model's section in the config, for the log.

    Raises:
        CheckpointError: anything else in it does not fit.
    """
    source = wrapped_as(model, checkpoint.model)
    load_into(model, dataclasses.replace(checkpoint, model=with_own(model, source, layers)))
    report(layers, source, model.state_dict(), str(checkpoint.path), where)


def with_own(
    model: nn.Module, source: Mapping[str, Tensor], layers: ClassLayers
) -> OrderedDict[str, Tensor]:
    """Return a state with the model's own tensors in place of those of its class layers."""
    kept = OrderedDict((name, t) for name, t in source.items() if not layers.holds(name))
    kept.update((name, t) for name, t in model.state_dict().items() if layers.holds(name))
    if (metadata := getattr(source, "_metadata", None)) is not None:
        kept._metadata = metadata  # type: ignore[attr-defined]
    return kept


def report(
    layers: ClassLayers,
    source: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    name: str,
    where: str,
) -> None:
    """Log which layers were left out, and of how many classes.

    Args:
        layers: the model's class layers.
        source: the tensors that it starts from, by the model's names.
        own: the model's tensors.
        name: of the source.
        where: the model's section in the config.
    """
    theirs, ours = layers.num_classes(source), layers.num_classes(own)
    logger.info(
        "%s.reset_head: the class layers (%s) are left out and untrained: %s has %s classes, "
        "the model has %s%s",
        where,
        layers,
        name,
        "no" if theirs is None else theirs,
        ours,
        ", as many, which may be others" if theirs == ours else "",
    )


def start_hint(
    model: nn.Module,
    checkpoint: Checkpoint,
    find: Callable[[], ClassLayers],
    where: str,
    **options: bool,
) -> str:
    """Return how to start a model from a checkpoint that fits but for its class layers, or ''.

    Args:
        model: one that is not used any more: it may get the checkpoint's tensors.
        checkpoint: it does not fit the model.
        find: finds the model's class layers.
        where: the model's section in the config.
        options: of `load_into`.
    """
    source, own = wrapped_as(model, checkpoint.model), model.state_dict()
    try:
        layers = find()
        kept = dataclasses.replace(checkpoint, model=with_own(model, source, layers))
        load_into(model, kept, **options)
    except LadonError:
        return ""
    return of_other_classes(source, own, layers.sizes, lambda: layers, where)


def of_other_classes(
    source: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    odd: Iterable[str],
    find: Callable[[], ClassLayers],
    where: str,
) -> str:
    """Return how to start a model whose class layers alone do not fit, or '' if others are odd.

    Args:
        source: the tensors that it is to start from, by the model's names.
        own: the model's tensors.
        odd: names of tensors that do not fit.
        find: finds the model's class layers.
        where: the model's section in the config.
    """
    try:
        layers = find()
    except LadonError:
        return ""
    if not all(map(layers.holds, odd)):
        return ""
    theirs = layers.num_classes(source)
    if not where.endswith(".backbone_config"):
        advice = f"write reset_head: true in {where} to start without them"
    elif theirs is not None:  # they are cut off later
        advice = f"set {where}.kwargs.num_classes to {theirs}"
    else:
        return ""
    return (
        f"; only its class layers differ ({layers}): it has {'no' if theirs is None else theirs} "
        f"classes, the model has {layers.num_classes(own)}: {advice}"
    )


def _layer_of(tensor: str) -> str:
    return tensor.rpartition(".")[0] or tensor


def _shape(state: Mapping[str, Tensor], name: str) -> torch.Size | None:
    return state[name].shape if name in state else None


def _size(few: Tensor, more: Tensor) -> _Size:
    pairs = enumerate(zip(few.shape, more.shape, strict=True))
    axis, (small, large) = next(pair for pair in pairs if pair[1][0] != pair[1][1])
    per_class = (large - small) // (_TRIED[1] - _TRIED[0])
    return _Size(axis, per_class, small - per_class * _TRIED[0])
