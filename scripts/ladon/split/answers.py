"""What the server half says of one image, in the image's own pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

IGNORED = 255
"""The label of pixels that the encoder has not seen: what was cut off around its input."""


@dataclass(frozen=True)
class Found:
    """A class that was found.

    Attributes:
        label: its number in the model.
        name: its name, None where the checkpoint tells none.
        score: 0 to 1.
        box: x1, y1, x2, y2 in pixels of the image; None for the image as a whole.
    """

    label: int
    name: str | None
    score: float
    box: tuple[float, float, float, float] | None = None

    def to_plain(self) -> dict[str, Any]:
        """Return it in JSON's types."""
        plain: dict[str, Any] = {"label": self.label, "class": self.name, "score": self.score}
        return plain if self.box is None else {**plain, "box": list(self.box)}


@dataclass(frozen=True, eq=False)
class Mask:
    """The class of each pixel.

    Attributes:
        labels: [H, W] uint8 in the image's size; `IGNORED` where the encoder saw nothing.
        names: of the labels, as far as the checkpoint tells them.
    """

    labels: np.ndarray
    names: tuple[str, ...] | None = None

    def name_of(self, label: int) -> str | None:
        """Return a label's name."""
        known = self.names is not None and label < len(self.names)
        return (self.names[label] or None) if known and self.names else None

    def to_plain(self) -> dict[str, Any]:
        """Return which classes have how many pixels, in JSON's types; not the pixels."""
        labels, counts = np.unique(self.labels, return_counts=True)
        found = zip(labels.tolist(), counts.tolist(), strict=True)
        classes = [
            {"label": label, "class": self.name_of(label), "pixels": count}
            for label, count in found
            if label != IGNORED
        ]
        return {"size": list(self.labels.shape), "classes": classes}


@dataclass(frozen=True, eq=False)
class Answers:
    """The answers of the heads that were asked; None of the others.

    Attributes:
        classes: the best of all classes, the most likely first.
        objects: the objects that were found, the surest first.
        mask: the class of each pixel.
    """

    classes: tuple[Found, ...] | None = None
    objects: tuple[Found, ...] | None = None
    mask: Mask | None = None

    def __iter__(self) -> Iterator[str]:
        """Iterate over the heads that answered: 'classification', 'detection', 'segmentation'."""
        given = {
            "classification": self.classes,
            "detection": self.objects,
            "segmentation": self.mask,
        }
        return (head for head, answer in given.items() if answer is not None)

    def to_plain(self) -> dict[str, Any]:
        """Return them by head in JSON's types; of the mask, which classes it has."""
        plain: dict[str, Any] = {}
        if self.classes is not None:
            plain["classification"] = [found.to_plain() for found in self.classes]
        if self.objects is not None:
            plain["detection"] = [found.to_plain() for found in self.objects]
        if self.mask is not None:
            plain["segmentation"] = self.mask.to_plain()
        return plain
