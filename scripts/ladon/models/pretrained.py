"""Weights that come with libraries: which file they are, and where it is looked for."""

from __future__ import annotations

import urllib.error
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ladon.errors import CheckpointError

# timm >= 1.0 asks the Hugging Face hub; these are the same weights as files, as published
_TIMM_FILES = {"resnest269e": "resnest269-0cc87c48.pth"}


def _cache() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"


def with_local_file(name: str | None, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Points a timm model that wants pretrained weights to their file, if it is in torch's cache.

    Args:
        name: timm's name of the model; others pass unchanged.
        kwargs: the model's arguments.
    """
    file = _cache() / _TIMM_FILES.get(name or "", "-")
    if kwargs.get("pretrained") and file.is_file():
        return {**kwargs, "pretrained_cfg_overlay": {"file": str(file)}}
    return dict(kwargs)


@contextmanager
def naming_missing_files(name: str, timm_name: str | None, where: str) -> Iterator[None]:
    """Turns a failed download into an error that says which file to put where.

    Args:
        name: the model, for the error.
        timm_name: its name in timm, if it is timm's.
        where: the config key that asks for it.

    Raises:
        CheckpointError: if weights are neither cached nor to be had.
    """
    original = torch.hub.download_url_to_file
    wanted: list[str] = []

    def download(url: str, dst: str, *args: Any, **kwargs: Any) -> None:
        wanted.append(str(dst))
        original(url, dst, *args, **kwargs)

    torch.hub.download_url_to_file = download
    try:
        yield
    except (urllib.error.URLError, ConnectionError, OSError) as error:
        from_hub = type(error).__module__.startswith(("huggingface_hub", "httpx", "requests"))
        if not (from_hub or isinstance(error, urllib.error.URLError | ConnectionError)):
            raise
        if timm_name in _TIMM_FILES:
            wanted.append(str(_cache() / _TIMM_FILES[timm_name]))
        file = f"put it at {wanted[-1]}" if wanted else f"put its file into {_cache()}"
        raise CheckpointError(
            f"{where}: the pretrained weights of {name} are not cached and cannot be downloaded; "
            f"{file}, or drop the weights from the config"
        ) from error
    finally:
        torch.hub.download_url_to_file = original
