"""A loss and a metric of one's own; `own_loss.yaml`, beside this file, names them."""

import torch
from torch import Tensor, nn

from ladon.metrics.base import Metric
from ladon.tasks import Score


class HuberDistance(nn.Module):
    """Huber's loss between two feature maps, summed and counted per image.

    Args:
        delta: from which difference on it grows linearly.
    """

    def __init__(self, delta: float = 1.0) -> None:
        super().__init__()
        self.huber = nn.HuberLoss(reduction="sum", delta=delta)

    def forward(self, features: Tensor, target: Tensor) -> Tensor:
        return self.huber(features, target) / len(features)


class WorstClassAccuracy(Metric):
    """Share of right answers, in percent, of the class that has the fewest."""

    scores = (Score("worst_class", "worst class [%]"),)

    def __init__(self) -> None:
        self.counts: dict[int, list[int]] = {}  # by label: right answers, images

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        for label, answer in zip(targets.tolist(), outputs.argmax(dim=1).tolist(), strict=True):
            counts = self.counts.setdefault(label, [0, 0])
            counts[0] += label == answer
            counts[1] += 1

    def state(self) -> dict[int, list[int]]:
        return self.counts  # of each process

    def compute(self, states: list[dict[int, list[int]]]) -> dict[str, float]:
        sums: dict[int, Tensor] = {}
        for label, counts in (item for state in states for item in state.items()):
            sums[label] = sums.get(label, 0) + torch.tensor(counts)
        shares = [float(100 * right / images) for right, images in sums.values()]
        return {"worst_class": min(shares, default=0.0)}

    def lines(self, values: dict[str, float]) -> list[str]:
        return [f"Worst class: {values['worst_class']:.2f} %"]
