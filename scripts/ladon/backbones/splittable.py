"""The splittable model of a `CutFamily`: a bottleneck, the stages behind it, and the head."""

from __future__ import annotations

import functools
import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from compressai.models import CompressionModel
from sc2bench.models import backbone as library
from sc2bench.models.backbone import UpdatableBackbone
from torch import Tensor, nn

from ladon.backbones.base import FAMILIES, CutFamily
from ladon.errors import ConfigError

# read by `ladon.models.build`, which takes them out of what a builder is given
_ORIGINAL = {"org_model_ckpt_file_path_or_url": None, "org_ckpt_strict": True}


class SplittableModel(UpdatableBackbone):
    """A network whose first layers gave way to a bottleneck; what sc2bench's does for ResNets.

    Its children are the bottleneck, the family's stages, `avgpool` and `fc`, in the order in which
    they run.

    Attributes:
        stages: the stages' names.
        plain_names: the plain network's names of the tensors taken from it, by their names here.

    Args:
        family: says how the network is cut.
        bottleneck: what takes the place of the first layers.
        plain: the whole network.
        skips_avgpool: end with the last stage's features [N, C, H, W].
        skips_fc: end with the pooled features.
        pre_transform: runs before the encoder.
        analysis_config: sc2bench's, for its analyzers.
    """

    def __init__(
        self,
        family: CutFamily,
        bottleneck: Any,
        plain: nn.Module,
        *,
        skips_avgpool: bool,
        skips_fc: bool,
        pre_transform: nn.Module | None,
        analysis_config: Mapping[str, Any],
    ) -> None:
        super().__init__(analysis_config.get("analyzer_configs") or [])
        self.analyzes_after_compress = analysis_config.get("analyzes_after_compress", False)
        self.stages = family.stages
        self.pre_transform = pre_transform
        self.bottleneck_layer: Any = bottleneck
        parts = family.cut(plain)
        for name in family.stages:
            self.add_module(name, parts[name])
        self.avgpool = None if skips_avgpool else parts["avgpool"]
        self.fc = None if skips_fc else parts["fc"]
        names = {id(t): name for name, t in plain.state_dict(keep_vars=True).items()}
        own = self.state_dict(keep_vars=True).items()
        self.plain_names = {name: names[id(t)] for name, t in own if id(t) in names}

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits [N, K] of images [N, 3, H, W], or features where the head is skipped."""
        if self.pre_transform is not None:
            x = self.pre_transform(x)
        if self.bottleneck_updated and not self.training:
            coded = self.bottleneck_layer.encode(x)
            if self.analyzes_after_compress:
                self.analyze(coded)
            x = self.bottleneck_layer.decode(**coded)
        else:
            x = self.bottleneck_layer(x)
        for name in self.stages:
            x = getattr(self, name)(x)
        if self.avgpool is None:
            return x
        return run_head((self.avgpool,) if self.fc is None else (self.avgpool, self.fc), x)

    def update(self, **_: Any) -> None:
        """Build the tables of the entropy coder, and code from now on."""
        self.bottleneck_layer.update()
        self.bottleneck_updated = True

    def get_aux_module(self, **_: Any) -> nn.Module | None:
        """Return what has an auxiliary loss: the bottleneck, if it is a compression model."""
        is_coded = isinstance(self.bottleneck_layer, CompressionModel)
        return self.bottleneck_layer if is_coded else None


def run_head(parts: Iterable[nn.Module], x: Tensor) -> Tensor:
    """Compute logits [N, K] of the last stage's features [N, C, H, W].

    Args:
        parts: the head's modules in order; before an `nn.Linear`, features are flattened.
        x: the features.
    """
    for part in parts:
        x = part(torch.flatten(x, 1) if isinstance(part, nn.Linear) else x)
    return x


def without_head(family: CutFamily, plain: nn.Module) -> nn.Sequential:
    """Return a plain network as a sequence of the family's named parts, less its head."""
    parts = family.cut(plain)
    return nn.Sequential(OrderedDict((n, p) for n, p in parts.items() if n not in family.head))


def builders() -> dict[str, Callable[..., SplittableModel]]:
    """Return the functions that build the families' splittable models, by their key in YAML."""
    families = (f for f in FAMILIES.values() if isinstance(f, CutFamily))
    return {family.key: _builder(family) for family in families}


@functools.cache
def _builder(family: CutFamily) -> Callable[..., SplittableModel]:
    def build(
        bottleneck_config: Mapping[str, Any],
        skips_avgpool: bool = True,
        skips_fc: bool = True,
        pre_transform: nn.Module | None = None,
        analysis_config: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> SplittableModel:
        member = family.chosen({family.argument: kwargs.pop(family.argument, None)})
        builder = family.builder(member)
        if builder is None:
            raise ConfigError(f'{family.argument}: {family.library} has no "{member}"')
        arguments = bottleneck_config.get("kwargs") or {}
        return SplittableModel(
            family,
            library.get_layer(bottleneck_config["key"], **arguments),
            builder(**kwargs),
            skips_avgpool=skips_avgpool,
            skips_fc=skips_fc,
            pre_transform=pre_transform,
            analysis_config=analysis_config or {},
        )

    build.__name__ = build.__qualname__ = family.key
    signature = inspect.signature(build)
    kinds = inspect.Parameter
    named = [
        kinds(name, kinds.KEYWORD_ONLY, default=default)
        for name, default in {family.argument: family.default, **_ORIGINAL}.items()
    ]
    *first, rest = signature.parameters.values()
    build.__signature__ = signature.replace(parameters=[*first, *named, rest])  # type: ignore[attr-defined]
    return build
