"""Of a classifier: right answers of each class, what it takes for what, the least likely labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ladon.analysis.base import Analysis, ByClass, Judged
from ladon.split.answers import Answers, Found

_BEST = 5


class ClassificationAnalysis(Analysis):
    """Accuracy by class; an image is as bad as its loss, the cross entropy of its label."""

    _counts: Tensor | None = None  # [label, answer], and those whose label is among the five best
    _among: Tensor | None = None

    def update(self, outputs: Tensor, targets: Tensor) -> list[float]:
        """Take logits [N, K] and labels [N]; return the losses."""
        logits, number = outputs.float(), outputs.shape[1]
        best = logits.topk(min(_BEST, number), dim=1).indices
        among = (best == targets[:, None]).any(dim=1)
        if self._counts is None or self._among is None:
            self._counts = torch.zeros(number * number, dtype=torch.int64, device=logits.device)
            self._among = torch.zeros(number, dtype=torch.int64, device=logits.device)
        labels = targets.clamp(0, number - 1)  # a wrong one is the metric's to refuse
        self._counts.index_add_(0, labels * number + best[:, 0], torch.ones_like(labels))
        self._among.index_add_(0, labels, among.long())
        return F.cross_entropy(logits, labels, reduction="none").tolist()

    def judge(self, outputs: Tensor, targets: Tensor, number: int) -> Judged:
        """Return the label with its likelihood, and the five best answers with theirs."""
        shares = outputs[number].float().softmax(dim=0)
        label = int(targets[number])
        scores, labels = (t.tolist() for t in shares.topk(min(_BEST, len(shares))))
        best = (Found(n, self.name_of(n), score) for n, score in zip(labels, scores, strict=True))
        truth = Found(label, self.name_of(label), float(shares[label]))
        loss = -float(outputs[number].float().log_softmax(dim=0)[label])
        return Judged(f"loss {loss:.3f}", Answers((truth,)), Answers(tuple(best)))

    def state(self) -> Any:
        """Return the counts, None where there was no image."""
        if self._counts is None or self._among is None:
            return None
        return self._counts.cpu().numpy(), self._among.cpu().numpy()

    def compute(self, states: Sequence[Any]) -> ByClass:
        """Return images, both accuracies in percent, and the most frequent wrong answer."""
        seen = [state for state in states if state is not None]
        if not seen:
            return ByClass({}, {})
        among = sum(state[1] for state in seen)
        counts = sum(state[0] for state in seen).reshape(len(among), len(among))
        images, right = counts.sum(axis=1), counts.diagonal()
        wrong = counts.copy()
        wrong[range(len(wrong)), range(len(wrong))] = 0
        columns: dict[str, list[float | None]] = {
            "images": images.tolist(),
            "acc1": _percent(right, images),
            "acc5": _percent(among, images),
            "mistaken_for": [int(row.argmax()) if row.any() else None for row in wrong],
            "mistaken": wrong.max(axis=1).tolist(),
        }
        overall = {
            "images": int(images.sum()),
            "acc1": 100.0 * int(right.sum()) / max(1, int(images.sum())),
            "acc5": 100.0 * int(among.sum()) / max(1, int(images.sum())),
        }
        return ByClass(columns, overall, counts)


def _percent(part: Any, whole: Any) -> list[float | None]:
    pairs = zip(part.tolist(), whole.tolist(), strict=True)
    return [100.0 * of / total if total else None for of, total in pairs]
