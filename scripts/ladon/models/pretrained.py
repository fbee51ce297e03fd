"""Weights that come with libraries: which file they are, and where it is looked for."""

from __future__ import annotations

import urllib.error
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import timm.models._builder as timm_builder
import torch
from huggingface_hub import constants as hub_constants
from torch import nn
from torchvision.models import WeightsEnum

from ladon.backbones import FAMILIES
from ladon.distrust import (
    UNCHECKED,
    allows_unchecked,
    not_meant,
    require_known,
    running_nothing,
)
from ladon.errors import CheckpointError


def _cache() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"


def _published_file(name: str) -> Path | None:
    files = {n: file for family in FAMILIES.values() for n, file in family.weight_files.items()}
    return _cache() / files[name] if name in files else None


def with_local_file(name: str, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Points a timm model that wants pretrained weights to their file, if it is in torch's cache.

    Args:
        name: the library's name of the network; others than timm's pass unchanged.
        kwargs: the model's arguments.
    """
    file = _published_file(name)
    if kwargs.get("pretrained") and file is not None and file.is_file():
        return {**kwargs, "pretrained_cfg_overlay": {"file": str(file)}}
    return dict(kwargs)


@contextmanager
def refusing_other_classes() -> Iterator[None]:
    """Let timm refuse pretrained weights of another number of classes, as torchvision does.

    By itself it leaves out their classifier without a word. A model without one (`num_classes: 0`,
    `features_only`) takes any weights.

    Raises:
        ValueError: the model has another number of classes.
    """
    original = timm_builder.load_pretrained

    def load(model: nn.Module, *args: Any, **kwargs: Any) -> None:
        wanted = kwargs.get("num_classes", 0)
        found = (kwargs.get("pretrained_cfg") or {}).get("num_classes", wanted)
        if wanted not in (0, found):
            raise ValueError(f"num_classes is {wanted}, but the pretrained weights have {found}")
        original(model, *args, **kwargs)

    with patch.object(timm_builder, "load_pretrained", load):
        yield


@contextmanager
def as_if_pretrained(num_classes: int | None) -> Iterator[None]:
    """Let models that ask for pretrained weights be built as with them, but keep their first ones.

    With weights, torchvision's builders make other choices (frozen BatchNorm, an auxiliary head),
    and take no other number of classes than that of the weights.

    Args:
        num_classes: of the model; None for that of the weights.
    """
    load = nn.Module.load_state_dict

    def load_unless_empty(model: nn.Module, state: Any, *args: Any, **kwargs: Any) -> Any:
        return load(model, state, *args, **kwargs) if state else None

    def meta(weights: WeightsEnum) -> dict[str, Any]:
        own = weights.value.meta
        return own if num_classes is None else {**own, "categories": [""] * num_classes}

    with (
        patch.object(WeightsEnum, "get_state_dict", lambda *_, **__: {}),
        patch.object(WeightsEnum, "meta", property(meta)),
        patch.object(nn.Module, "load_state_dict", load_unless_empty),
        patch.object(timm_builder, "load_pretrained", lambda *_, **__: None),
    ):
        yield


@contextmanager
def naming_missing_files(name: str, network: str, where: str) -> Iterator[None]:
    """Turn a failed download into an error that says which file to put where.

    What is downloaded within is checked by its SHA-256, as far as its name tells it, or refused;
    so are all files of timm's hub that are not there yet, whose names tell nothing.

    Args:
        name: the model, for the error.
        network: its library's name of the network in it.
        where: the config key that asks for it.

    Raises:
        CheckpointError: if weights are neither cached nor to be had, or not the right ones.
    """
    original = torch.hub.download_url_to_file
    wanted: list[str] = []

    def download(url: str, dst: str, hash_prefix: str | None = None, progress: bool = True) -> None:
        wanted.append(str(dst))
        digits = hash_prefix or require_known(url, dst)
        try:
            original(url, dst, digits, progress)
        except RuntimeError as error:
            raise not_meant(where, url, error) from error

    torch.hub.download_url_to_file = download
    offline = hub_constants.HF_HUB_OFFLINE
    hub_constants.HF_HUB_OFFLINE = offline or not allows_unchecked()
    try:
        with running_nothing():
            yield
    except (urllib.error.URLError, ConnectionError, OSError) as error:
        from_hub = type(error).__module__.startswith(("huggingface_hub", "httpx", "requests"))
        if not (from_hub or isinstance(error, urllib.error.URLError | ConnectionError)):
            raise
        if (published := _published_file(network)) is not None:
            wanted.append(str(published))
        file = f"put it at {wanted[-1]}" if wanted else f"put its file into {_cache()}"
        if from_hub and not offline and not allows_unchecked():
            file += f", set {UNCHECKED}=1 to take what timm's hub has, of which no SHA-256 is known"
        raise CheckpointError(
            f"{where}: the pretrained weights of {name} are not cached and cannot be downloaded; "
            f"{file}, or drop the weights from the config"
        ) from error
    finally:
        torch.hub.download_url_to_file = original
        hub_constants.HF_HUB_OFFLINE = offline
