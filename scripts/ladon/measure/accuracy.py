"""What the answers are worth: scores of every way on images that carry the labels of all tasks.

Of a three-headed model all scores come from one payload for an image, fitted as its own transform
does it; the tasks' own protocols, each of which fits the image otherwise, are run by their scripts.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from ladon.edge.fitting import Fitting
from ladon.images import open_image
from ladon.logs import progress
from ladon.measure.clock import Clock
from ladon.measure.labelled import Labelled, common_images, spread
from ladon.measure.ways import LADON, PICTURE, SINGLE, Identity, Way, picture_of
from ladon.metrics.base import Metric
from ladon.replacing import write_json
from ladon.split.answers import IGNORED, Answers

logger = logging.getLogger(__name__)


@dataclass
class Score:
    """A way's score in one task.

    Attributes:
        identity: of the way.
        labelled: the task's data.
        metrics: all values of the task's metric.
        num_bytes: of each image, all messages together.
    """

    identity: Identity
    labelled: Labelled
    metrics: dict[str, Any]
    num_bytes: list[int]

    @property
    def value(self) -> float:
        """The decisive score."""
        return float(self.metrics[self.labelled.task.decisive.key])

    def to_plain(self) -> dict[str, Any]:
        """Return it in JSON's types."""
        task = self.labelled.task
        return {
            "way": self.identity.name,
            "task": task.name,
            "title": task.title,
            "dataset": self.labelled.dataset_id,
            "score": task.decisive.key,
            "label": task.decisive.label,
            "digits": task.decisive.digits,
            "value": self.value,
            "metrics": self.metrics,
            "mean_bytes": float(np.mean(self.num_bytes)),
            "n": len(self.num_bytes),
        }


@dataclass
class _Tally:
    metrics: dict[str, Metric]
    num_bytes: list[int] = field(default_factory=list)


def score_ways(
    ways: Sequence[Way],
    sets: Mapping[str, Labelled],
    fitting: Fitting,
    num_images: int | None = None,
) -> list[Score]:
    """Score ways on the images that all tasks have labels of.

    Args:
        ways: whose answers mean something: none with random weights.
        sets: test sets by head.
        fitting: of the three-headed model, by which pictures are scaled.
        num_images: only so many, spread over the first set; None: all.

    Raises:
        DataError: the sets have no image in common.
    """
    names = common_images(sets)
    names = [names[n] for n in spread(len(names), num_images or len(names))]
    if len(names) < len(next(iter(sets.values())).by_file):
        logger.info("Accuracy is of %d images that all tasks have", len(names))
    tallies = [_Tally({head: one.metric() for head, one in sets.items()}) for _ in ways]
    first = next(iter(sets.values()))
    with progress("Accuracy", len(names)) as advance:
        for name in names:
            image = open_image(first.path(name))
            targets = {head: one.target(name) for head, one in sets.items()}
            size = picture_of(image, fitting).shape[:2]
            for way, tally in zip(ways, tallies, strict=True):
                messages = way.device(image, Clock())
                answers = way.server(messages, Clock())
                tally.num_bytes.append(sum(map(len, messages)))
                for head, one in sets.items():
                    found = outputs(answers[head], one, targets[head], image, size)
                    tally.metrics[head].update(found, targets[head])
            advance(1)
    return [
        Score(way.identity, sets[head], metric.compute([metric.state()]), tally.num_bytes)
        for way, tally in zip(ways, tallies, strict=True)
        for head, metric in tally.metrics.items()
    ]


def outputs(
    answer: Any, labelled: Labelled, target: Any, image: Image.Image, size: tuple[int, ...]
) -> Any:
    """Return an answer as the metric of its task takes it.

    Args:
        answer: a split model's `Answers`, or what an unsplit model gives of the picture.
        labelled: the task's data.
        target: the image's.
        image: the image.
        size: height and width of the picture that an unsplit model was given.
    """
    if labelled.head == "classification":
        return _shares(answer, labelled.num_classes) if isinstance(answer, Answers) else answer
    if labelled.head == "detection":
        if isinstance(answer, Answers):
            return [_boxes(answer)]
        scale = torch.tensor([image.width / size[1], image.height / size[0]] * 2)
        return [{**found, "boxes": found["boxes"] * scale} for found in answer]
    if isinstance(answer, Answers):
        answer = _one_hot(answer, labelled.num_classes, target.shape[-2:])
    if answer.shape[-2:] == target.shape[-2:]:
        return answer
    return functional.interpolate(answer, size=target.shape[-2:], mode="bilinear")


def _shares(answer: Answers, num_classes: int) -> Tensor:
    """Return scores [1, K]; classes that were not named, which are behind the others, have none."""
    shares = torch.full((1, num_classes), -1.0)
    for found in answer.classes or ():
        shares[0, found.label] = found.score
    return shares


def _boxes(answer: Answers) -> dict[str, Tensor]:
    objects = answer.objects or ()
    return {
        "boxes": torch.tensor([found.box for found in objects]).reshape(-1, 4),
        "scores": torch.tensor([found.score for found in objects]),
        "labels": torch.tensor([found.label for found in objects], dtype=torch.int64),
    }


def _one_hot(answer: Answers, num_classes: int, size: torch.Size) -> Tensor:
    """Return a mask as scores [1, K, H, W]; what the encoder has not seen counts as background."""
    assert answer.mask is not None  # it was asked for
    labels = torch.from_numpy(answer.mask.labels.astype(np.int64))
    labels = torch.where(labels == IGNORED, 0, labels)
    if labels.shape != size:
        resized = functional.interpolate(
            labels[None, None].float(), size=size, mode="nearest-exact"
        )
        labels = resized[0, 0].long()
    return functional.one_hot(labels, num_classes).permute(2, 0, 1)[None].float()


def write_runs(
    scores: Sequence[Score], folder: Path, backbone: str | None, before: Mapping[str, str]
) -> list[Path]:
    """Write a `metrics.json` for each score, as `ladon report` reads them.

    Args:
        scores: from `score_ways`.
        folder: gets a folder for each.
        backbone: of the split models.
        before: by head, what an unsplit model is called.

    Returns:
        The files.

    Raises:
        LadonError: a file cannot be written.
    """
    files, sent = [], {LADON: "one payload", SINGLE: "three payloads"}
    for score in scores:
        identity, task = score.identity, score.labelled.task
        slug = re.sub(r"[^\w.]+", "-", identity.name).strip("-").lower()
        path = folder / f"{slug}_{task.short_name}" / "metrics.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        is_picture, sizes = identity.kind == PICTURE, np.array(score.num_bytes)
        is_lossy = is_picture and identity.setting is not None
        size = {"mean": float(sizes.mean()), "std": float(sizes.std()), "n": len(sizes)}
        model: dict[str, Any] = {"metrics": score.metrics}
        if is_lossy or not is_picture:
            model["payload_bytes"] = size
        codec = {
            "format": identity.curve,
            "quality": identity.setting,
            "before": before[score.labelled.head],
        }
        content = {
            "format": 1,
            "task": task.name,
            "mode": "test",
            "name": f"unsplit {codec['before']}"
            if is_picture
            else f"{identity.curve}, {sent[identity.kind]}",
            "dataset": score.labelled.dataset_id,
            "beta": None if is_picture else identity.setting,
            "backbone": None if is_picture else backbone,
            "key_metric": task.decisive.key,
            "num_images": len(sizes),
            **({"codec": codec} if is_lossy else {}),
            "models": {"student": model},
        }
        write_json(path, content)
        files.append(path)
    return files
