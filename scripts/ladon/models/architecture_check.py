"""Architectures without weights: each distinct model of many configs built once, in seconds, and
compared with the tensors of the published ones."""

from __future__ import annotations

import lzma
from collections.abc import Mapping
from typing import Any

from torch import nn

from ladon.bottlenecks import find_bottleneck
from ladon.bottlenecks.entropy import CDF_TABLES
from ladon.choices import HEADS
from ladon.config import Config
from ladon.config.validate.registries import model_kind
from ladon.errors import LadonError
from ladon.launch import PACKAGE
from ladon.models.build import build_model, without_paths
from ladon.models.ladon import ThreeHeadedLadon
from ladon.models.meta_device import on_meta_device

# one line per tensor: name, shape, dtype; read from the paper's models under today's libraries
FACTS = PACKAGE / "published"


def tensors(model: nn.Module) -> dict[str, tuple[str, str]]:
    """Return shape and dtype by tensor name; shapes of CDF tables, which vary, are left out."""
    found = {}
    for name, tensor in model.state_dict().items():
        shape = "x".join(map(str, tensor.shape)) or "scalar"
        is_table = name.rsplit(".", 1)[-1] in CDF_TABLES
        found[name] = ("table" if is_table else shape, str(tensor.dtype).removeprefix("torch."))
    return found


def published_tensors(dataset: str, backbone: str) -> dict[str, tuple[str, str]] | None:
    """Return the same of the published model, or None where none was published."""
    file = FACTS / f"{dataset}_{backbone}.txt.xz"
    if not file.is_file():
        return None
    found = {}
    for line in lzma.decompress(file.read_bytes()).decode().splitlines():
        name, shape, dtype = line.split()
        is_table = name.rsplit(".", 1)[-1] in CDF_TABLES
        found[name] = ("table" if is_table else shape, dtype)
    return found


def differences(model: nn.Module, published: Mapping[str, tuple[str, str]]) -> list[str]:
    """Return one line per tensor that is missing, unexpected or of another shape or dtype."""
    own = tensors(model)
    lines = [f"{name}: missing" for name in sorted(published.keys() - own.keys())]
    lines += [f"{name}: unexpected" for name in sorted(own.keys() - published.keys())]
    common = sorted(own.keys() & published.keys())
    return lines + [
        f"{name}: {own[name]} instead of {published[name]}"
        for name in common
        if own[name] != published[name]
    ]


class ArchitectureCheck:
    """Builds the models of configs on the meta device, each distinct one once.

    Attributes:
        built: number of models built.
        compared: number of those that were compared with a published one.
    """

    def __init__(self) -> None:
        self.built = 0
        self.compared = 0
        self._seen: set[str] = set()

    def check(self, config: Config) -> list[str]:
        """Return the problems of a config's models; none for models that were built before."""
        problems = []
        for name in ("teacher_model", "student_model", "model"):
            section = config.section(f"models.{name}")
            if section:
                problems += self._check_model(config, f"models.{name}", section)
        return problems

    def _check_model(self, config: Config, key: str, section: Mapping[str, Any]) -> list[str]:
        architecture = {k: v for k, v in section.items() if k in ("key", "kwargs", *HEADS)}
        identity = repr(without_paths(architecture))
        if identity in self._seen:
            return []
        self._seen.add(identity)
        try:
            with on_meta_device():
                model = build_model(
                    config.build(section), model_kind(section["key"]), key, load_weights=False
                )
        except LadonError as error:
            return [f"{config.where(key)}: {error}"]
        self.built += 1
        if find_bottleneck(model) is None or isinstance(model, ThreeHeadedLadon):
            return []
        dataset = str(config.get("test.test_data_loader.dataset_id", "")).split("/")[0]
        published = published_tensors(dataset, str(config.get("backbone", "")))
        if published is None:
            return []
        self.compared += 1
        return [f"{config.where(key)}: {line}" for line in differences(model, published)]
