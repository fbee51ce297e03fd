"""Modules that somebody's hook watches: they have to be called, whatever else is exchanged."""

from __future__ import annotations

from torch import nn


def is_watched(module: nn.Module) -> bool:
    """Whether somebody's hook wants to see this very layer."""
    return bool(module._forward_hooks or module._forward_pre_hooks)
