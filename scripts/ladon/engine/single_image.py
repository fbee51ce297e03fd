"""Foresees the batch of one image from which a norm layer cannot learn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ladon.errors import ConfigError


@contextmanager
def foreseeing_single_image(model: nn.Module, num_images: int, where: str) -> Iterator[None]:
    """Within it, a forward in train mode also looks whether a batch of one image would fail.

    It would where a layer has a single value per channel to take mean and variance of: after
    global pooling, or in tiny images. Over larger maps, one image will do.

    Args:
        model: about to see a batch.
        num_images: in that batch.
        where: key, file and line of the loader, for the error.

    Raises:
        ConfigError: naming the layer.
    """
    with ExitStack() as hooks:
        for name, module in model.named_modules():
            groups = _groups(module)
            if groups is not None:
                hook = _refusing(name, groups, num_images, where)
                hooks.callback(module.register_forward_pre_hook(hook).remove)
        yield


def _groups(module: nn.Module) -> int | None:
    """Count the means that a layer takes over a batch of one image; None if it takes none."""
    if isinstance(module, nn.GroupNorm):
        return module.num_groups
    # over several processes, there is more than one image
    if isinstance(module, _BatchNorm) and not isinstance(module, nn.SyncBatchNorm):
        takes = module.training or module.running_mean is None
        return module.num_features if takes else None
    return None


def _refusing(name: str, groups: int, num_images: int, where: str) -> Callable[..., None]:
    def hook(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if inputs[0].numel() == groups * num_images:
            raise ConfigError(
                f"{where}: the last batch has a single image, of which {name} has one value per "
                "channel and cannot take a variance: set drop_last: true, or another batch_size"
            )

    return hook
