"""The loss of a model for every rate: each image's distortion, and its bits at its own β."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchdistill.losses.registry import register_high_level_loss

# how fast the running means forget: a group of rates is seen by each batch or two
_MOMENTUM = 0.05


@register_high_level_loss
class RateDistortionLoss(nn.Module):
    """Squared errors of hooked layers plus β bits, summed over a batch's images.

    Each image has the β that was drawn for it. Where losses are normalised, those of each of a few
    groups of neighbouring rates are divided by their running mean and multiplied by the mean of all
    groups: no rate drowns another, and the whole keeps the size that learning rates are made for.

    Needs forward hooks on the student's outputs of the bottleneck's `draw` and
    `entropy_bottleneck`, and on the layers compared.

    Args:
        distortions: paths of the student's layers, and of the teacher's that each is compared
            with.
        bottleneck: path of a bottleneck of several rates.
        normalised: whether losses are.
        groups: of rates.
    """

    means: Tensor

    def __init__(
        self,
        distortions: Mapping[str, str],
        bottleneck: str = "bottleneck_layer",
        normalised: bool = True,
        groups: int = 8,
    ) -> None:
        super().__init__()
        self.distortions, self.bottleneck = dict(distortions), bottleneck
        self.normalised = normalised
        self.register_buffer("means", torch.zeros(groups))

    def forward(
        self, io: Mapping[str, Any], model_losses: Mapping[str, Any], targets: Any
    ) -> Tensor:
        """Return the loss, a scalar.

        Args:
            io: of 'student' and 'teacher', what their hooks saw by path.
            model_losses: not read.
            targets: not read.
        """
        student, teacher = io["student"], io["teacher"]
        _, positions, betas = student[f"{self.bottleneck}.draw"]["output"]
        _, likelihoods = student[f"{self.bottleneck}.entropy_bottleneck"]["output"]
        costs = betas * -likelihoods.log2().flatten(1).sum(1)
        for own, other in self.distortions.items():
            error = student[own]["output"] - teacher[other]["output"]
            costs = costs + error.square().flatten(1).sum(1)
        if not self.normalised:
            return costs.sum()
        return (self._weights(positions, costs.detach()) * costs).sum()

    def _weights(self, positions: Tensor, costs: Tensor) -> Tensor:
        """Note costs [N] in the running means; return what each is to be multiplied by [N]."""
        groups = ((positions + 1) / 2 * (len(self.means) - 1)).round().long()
        sums = torch.zeros_like(self.means).index_add_(0, groups, costs)
        counts = torch.zeros_like(self.means).index_add_(0, groups, torch.ones_like(costs))
        found = sums / counts.clamp(min=1)
        is_new = (self.means == 0) & (counts > 0)
        moved = torch.where(counts > 0, self.means.lerp(found, _MOMENTUM), self.means)
        self.means.copy_(torch.where(is_new, found, moved))
        is_known = self.means > 0
        mean = self.means.sum() / is_known.sum().clamp(min=1)
        return mean / self.means[groups].clamp(min=torch.finfo(costs.dtype).tiny)
