"""The losses of an epoch, kept on the device: reading one would make the host wait for it."""

from __future__ import annotations

import torch
from torch import Tensor


class LossMeter:
    """Sum, last value, and the first step whose loss was not finite.

    Args:
        total: sum of the epoch's losses so far.
        step: number of steps so far.
        device: where the losses are.
    """

    def __init__(self, total: float, step: int, device: torch.device) -> None:
        # full, not tensor: no copy that the host would wait for
        self._sum = torch.full((), total, dtype=torch.float64, device=device)
        self._step = step
        self._last = self._sum
        self._bad_step = torch.full((), -1, dtype=torch.int64, device=device)
        self._bad_value = self._sum

    def add(self, loss: Tensor) -> None:
        """Take the loss of the next step, a scalar."""
        loss = loss.detach().double()
        is_first = (self._bad_step < 0) & ~loss.isfinite()
        self._bad_step = torch.where(is_first, self._step, self._bad_step)
        self._bad_value = torch.where(is_first, loss, self._bad_value)
        self._sum = self._sum + loss
        self._last = loss
        self._step += 1

    def read(self) -> tuple[float, float, tuple[int, float] | None]:
        """Wait for the device; return last loss, sum, and the first bad step with its loss."""
        kept = [self._last, self._sum, self._bad_step.double(), self._bad_value]
        last, total, step, value = torch.stack(kept).tolist()
        return last, total, None if step < 0 else (int(step), value)
