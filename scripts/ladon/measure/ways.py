"""The ways in which a device and a server can share the work of answering an image.

(a) everything on the device: a lightweight model for each task;
(b) the picture to the server, as JPEG or WebP, whose unsplit models answer;
(c) the single-task split: a split model for each task, three payloads;
(d) Ladon: one encode, one payload, one body, three heads.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models import mobilenet_v3_large
from torchvision.models.detection import ssdlite320_mobilenet_v3_large
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

from ladon.edge.fitting import Fitting
from ladon.measure.clock import Clock
from ladon.measure.codecs import PictureCodec
from ladon.measure.unsplit import Unsplit, normalized
from ladon.split.model import SplitModel

ON_DEVICE, PICTURE, SINGLE, LADON = "on device", "picture", "single-task split", "Ladon"
"""Kinds of ways."""


@dataclass(frozen=True)
class Identity:
    """A way as people know it.

    Attributes:
        kind: of `ways`.
        name: told apart from all others of a measurement.
        setting: what sweeps within its curve: β or a codec's quality; None where nothing does.
        curve: name of the ways that differ in `setting` only.
    """

    kind: str
    name: str
    setting: float | None = None
    curve: str = ""


class Way(ABC):
    """A way to answer.

    Attributes:
        identity: what it is called.
    """

    identity: Identity

    @abstractmethod
    def device(self, image: Image.Image, clock: Clock) -> list[bytes]:
        """Do the device's half; return what is sent, nothing where nothing is.

        Args:
            image: mode 'RGB'.
            clock: told of each stage.
        """

    @abstractmethod
    def server(self, messages: Sequence[bytes], clock: Clock) -> Mapping[str, Any]:
        """Do the server's half; return the answers by head.

        Args:
            messages: from `device`.
            clock: told of each stage.
        """


class Split(Way):
    """One or several split models, a payload each; all payloads go in one message.

    Args:
        identity: what it is called.
        models: a three-headed one, or one for each task.
        rate: β that those encode at that are for every rate; None: their middle one.
    """

    def __init__(
        self, identity: Identity, models: Sequence[SplitModel], rate: float | None = None
    ) -> None:
        self.identity, self.models, self._rate = identity, list(models), rate

    def device(self, image: Image.Image, clock: Clock) -> list[bytes]:
        """Encode once for each model."""
        messages = []
        for model in self.models:
            with clock.stage("coding"):
                rate = self._rate if model.rates is not None else None
                messages.append(model.encode(image, rate=rate, on_stage=clock.add).to_bytes())
        return messages

    def server(self, messages: Sequence[bytes], clock: Clock) -> Mapping[str, Any]:
        """Decode each payload, and run what is behind it."""
        answers: dict[str, Any] = {}
        for model, message in zip(self.models, messages, strict=True):
            with clock.stage("decoding"):
                found = model.answer(message, on_stage=clock.add)
            answers.update(dict.fromkeys(model.heads, found))
        return answers


class Picture(Way):
    """A picture codec, and the unsplit models behind it.

    Args:
        codec: of the picture.
        fitting: of the three-headed model: the picture is scaled to the same size.
        models: by head.
    """

    def __init__(
        self, codec: PictureCodec, fitting: Fitting, models: Mapping[str, Unsplit]
    ) -> None:
        self.identity = Identity(PICTURE, codec.name, codec.quality, codec.format)
        self._codec, self._fitting, self._models = codec, fitting, models

    def device(self, image: Image.Image, clock: Clock) -> list[bytes]:
        """Scale and compress the picture."""
        with clock.stage("fit"):
            pixels = picture_of(image, self._fitting)
        with clock.stage("coding"):
            return [self._codec.encode(pixels)]

    def server(self, messages: Sequence[bytes], clock: Clock) -> Mapping[str, Any]:
        """Decompress the picture, and run every model on it."""
        with clock.stage("decoding"):
            values = values_of(self._codec.decode(messages[0]))
        answers = {}
        for head, model in self._models.items():
            with clock.stage("unsplit"):
                answers[head] = model(values)
        return answers


class OnDevice(Way):
    """A lightweight model for each task, none of whose answers need a server.

    Their weights are random: they are there to be timed. Of an untrained detector more boxes pass,
    so that its part is rather too long than too short.

    Args:
        fitting: of the three-headed model: the picture is scaled to the same size.
        class_counts: number of classes by head.
    """

    def __init__(self, fitting: Fitting, class_counts: Mapping[str, int]) -> None:
        self.identity = Identity(ON_DEVICE, "on device")
        self._fitting, self._models = fitting, light_models(class_counts)

    def device(self, image: Image.Image, clock: Clock) -> list[bytes]:
        """Run every model."""
        with clock.stage("fit"):
            values = values_of(picture_of(image, self._fitting))
            images = normalized(values, self._fitting)[None]
        with torch.inference_mode(), clock.stage("light models"):
            for head, model in self._models.items():
                if head == "detection":
                    # as large as the others' input, not its own 320x320
                    model.transform.fixed_size = tuple(values.shape[:0:-1])
                model([values] if head == "detection" else images)
        return []

    def server(self, messages: Sequence[bytes], clock: Clock) -> Mapping[str, Any]:
        """Do nothing."""
        return {}


LIGHT = {
    "classification": mobilenet_v3_large,
    "detection": ssdlite320_mobilenet_v3_large,
    "segmentation": lraspp_mobilenet_v3_large,
}
"""The paper's lightweight baselines that torchvision has, by head."""


def light_models(class_counts: Mapping[str, int]) -> dict[str, Any]:
    """Return the lightweight models with seeded random weights, by head."""
    torch.manual_seed(0)
    made: dict[str, nn.Module] = {}
    for head, count in class_counts.items():
        weights = {"weights": None, "weights_backbone": None}
        if head == "classification":
            weights.pop("weights_backbone")
        model = LIGHT[head](**weights, num_classes=count).eval()
        made[head] = model.to(memory_format=torch.channels_last)
    return made


def picture_of(image: Image.Image, fitting: Fitting) -> np.ndarray:
    """Return the picture [H, W, 3] uint8 that an encoder would see, less its padding."""
    fitted = replace(fitting, mean=None, std=None, multiple=1)(image)
    return np.rint(fitted.input.transpose(1, 2, 0) * 255).astype(np.uint8)


def values_of(pixels: np.ndarray) -> Tensor:
    """Return pixels [H, W, 3] uint8 as [3, H, W] float32 in 0..1."""
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float().div_(255)
