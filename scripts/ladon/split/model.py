"""A model in two halves that can be used one at a time: image to payload, payload to answers."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ladon.bottlenecks import Bottleneck, PayloadShapes, encoder_id
from ladon.codec import Payload
from ladon.codec.rates import Rates, check_asked
from ladon.edge.fitting import Fitted, Fitting
from ladon.errors import DataError, PayloadError, UsageError
from ladon.images import ImageLike, as_image
from ladon.models.inference import inference
from ladon.models.precision import forward_only
from ladon.modules import tensor_bytes
from ladon.split.answers import Answers, Found, Mask
from ladon.split.geometry import labels_in_image
from ladon.split.heads import Heads, OnStage, stage

BEST = 5
"""As many classes are named of an image."""
MOST_LABELS = 255


class SplitModel:
    """A model's two halves: `encode` is the device's, `answer` the server's.

    A context manager. The model is made fast for evaluation until `close`. It is to be used by one
    thread at a time.

    Attributes:
        name: of the experiment.
        fitting: how images become the encoder's input.
        encoder_id: 8 bytes by which payloads name their encoder.
        class_names: names of the classes by head, None where nothing tells them.
        network: the whole model.
        bottleneck: the model's.
        num_bytes: of the weights as they were loaded; they are kept beside what is made of them.

    Args:
        network: in eval mode and channels_last, on its device, its CDF tables built.
        bottleneck: the model's.
        heads: what comes behind it.
        fitting: how images become the encoder's input.
        class_names: by head.
        name: of the experiment.
        precision: one of `ladon.choices.PRECISIONS`, of all that comes behind the payload.
    """

    def __init__(
        self,
        network: nn.Module,
        bottleneck: Bottleneck,
        heads: Heads,
        fitting: Fitting,
        class_names: Mapping[str, list[str] | None],
        name: str,
        precision: str = "float32",
    ) -> None:
        self.network, self.bottleneck, self.name = network, bottleneck, name
        self.fitting, self.class_names = fitting, dict(class_names)
        self.encoder_id = encoder_id(bottleneck)
        self.num_bytes = tensor_bytes(network)
        self._shapes = PayloadShapes(bottleneck)
        self._heads, self._precision = heads, precision
        self._device = next(network.parameters()).device
        self._stack = ExitStack()
        self._payloads = self._stack.enter_context(inference(network, "full", precision=precision))

    def __enter__(self) -> SplitModel:
        """Return the model."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the model as it was before."""
        self.close()

    def close(self) -> None:
        """Leave the model as it was before."""
        self._stack.close()

    @property
    def heads(self) -> tuple[str, ...]:
        """What can be asked: some of 'classification', 'detection', 'segmentation'."""
        return self._heads.names

    def fit(self, image: ImageLike) -> Fitted:
        """Make an encoder's input of an image.

        Args:
            image: a file, whose EXIF orientation counts; a Pillow image; or pixels, uint8,
                [H, W, 3] or [H, W] of grey.

        Raises:
            DataError: it cannot be read, is too large, or no image.
        """
        return self.fitting(as_image(image))

    @property
    def rates(self) -> Rates | None:
        """The rates that images can be encoded at; None of a model that has one."""
        return self.bottleneck.rates

    def encode(
        self,
        image: ImageLike,
        *,
        rate: float | None = None,
        max_bytes: int | None = None,
        on_stage: OnStage | None = None,
    ) -> Payload:
        """Encode an image.

        Args:
            image: as for `fit`.
            rate: β, of a model for every rate; None: the middle one.
            max_bytes: of such a model, instead of a rate: the finest one that has a payload of no
                more bytes, as it is sent.
            on_stage: told of 'fit', 'analysis' and 'coding'.

        Raises:
            DataError: as `fit` does, or the image takes more bytes at the coarsest rate.
            UsageError: the model has no such rate, or one rate only.
        """
        with stage("fit", on_stage, self._device):
            fitted = self.fit(image)
        return self.encode_fitted(fitted, rate=rate, max_bytes=max_bytes, on_stage=on_stage)

    def encode_fitted(
        self,
        fitted: Fitted,
        *,
        rate: float | None = None,
        max_bytes: int | None = None,
        on_stage: OnStage | None = None,
    ) -> Payload:
        """Encode what `fit` gave.

        Args:
            fitted: the encoder's input.
            rate, max_bytes: as for `encode`.
            on_stage: told of 'analysis' and 'coding'.

        Raises:
            DataError: the latent is not finite: there is NaN in the input; or as for `encode`.
            UsageError: as for `encode`.
        """
        coding = self.bottleneck.coding
        check_asked(self.rates, self.name, rate, max_bytes)
        with forward_only(self._device):
            with stage("analysis", on_stage, self._device):
                images = torch.from_numpy(fitted.input)[None].to(self._device)
                latent = coding.analyse(images)
            with stage("coding", on_stage, self._device):
                if max_bytes is not None:
                    coded = coding.code_within(latent, Payload.body_within(max_bytes))
                elif rate is not None and self.rates is not None:
                    coded = coding.code(latent, [self.rates.level(rate)])
                else:
                    coded = coding.code(latent)
        self._payloads.pop()
        finite = self._payloads.pop_finite()
        if finite is not None and not bool(finite):
            raise DataError("the image's latent is not finite: the encoder cannot be used on it")
        return Payload(
            strings=tuple(of_images[0] for of_images in coded["strings"]),
            shape=(int(coded["shape"][0]), int(coded["shape"][1])),
            encoder_id=self.encoder_id,
            kind=type(self.bottleneck).payload_kind,
            image_size=fitted.image_size,
            scaled_size=fitted.scaled_size,
            input_size=fitted.input_size,
            fit=fitted.fit,
            rate=coded["levels"][0] if "levels" in coded else None,
        )

    def answer(
        self,
        payload: Payload | bytes,
        heads: Sequence[str] | None = None,
        *,
        on_stage: OnStage | None = None,
    ) -> Answers:
        """Answer of an image whose payload is here.

        Args:
            payload: from `encode`, or the bytes of one from anywhere.
            heads: those that are asked; by default all.
            on_stage: told of 'decoding', 'synthesis', 'body' and each head.

        Raises:
            PayloadError: it is damaged, or another model's.
            UsageError: the model has no such head.
        """
        if not isinstance(payload, Payload):
            payload = Payload.from_bytes(payload, expected=[self.encoder_id])
        return self.answer_batch([payload], heads, on_stage=on_stage)[0]

    @staticmethod
    def batch_key(payload: Payload) -> Hashable:
        """Return what is equal of payloads that can be answered together."""
        return payload.input_size, payload.shape

    def answer_batch(
        self,
        payloads: Sequence[Payload],
        heads: Sequence[str] | None = None,
        *,
        on_stage: OnStage | None = None,
    ) -> list[Answers]:
        """Answer of several images at once.

        Args:
            payloads: of one `batch_key`.
            heads: as for `answer`.
            on_stage: as for `answer`; each stage is of all payloads.

        Raises:
            PayloadError, UsageError: as for `answer`; nothing tells whose payload it was.
        """
        asked = self._asked(heads)
        for payload in payloads:
            self._check(payload)
        if len({self.batch_key(payload) for payload in payloads}) != 1:
            raise UsageError("payloads of several sizes cannot be answered together")
        coding = self.bottleneck.coding
        with forward_only(self._device, self._precision):
            with stage("decoding", on_stage, self._device):
                parts = zip(*(payload.strings for payload in payloads), strict=True)
                levels = [p.rate for p in payloads if p.rate is not None]
                strings = [list(of_part) for of_part in parts]
                latent = coding.read(strings, payloads[0].shape, levels or None)
            with stage("synthesis", on_stage, self._device):
                features = coding.synthesise(latent)
            outputs = self._heads(features, payloads, asked, on_stage)
        return [self._answers(outputs, i, payload) for i, payload in enumerate(payloads)]

    def _asked(self, heads: Sequence[str] | None) -> tuple[str, ...]:
        if heads is None:
            return self.heads
        heads = (heads,) if isinstance(heads, str) else heads
        for head in heads:
            if head not in self.heads:
                raise UsageError(f"{self.name} has no head '{head}': {', '.join(self.heads)}")
        return tuple(head for head in self.heads if head in heads)

    def _check(self, payload: Payload) -> None:
        """Refuse another model's payload, and one whose latent is none of its input."""
        if payload.encoder_id != self.encoder_id:
            raise PayloadError(
                f"the payload was written by encoder {payload.encoder_id.hex()}, and {self.name} "
                f"has {self.encoder_id.hex()}: use the model that the sender has"
            )
        if len(payload.strings) != len(self.bottleneck.parts):
            raise PayloadError(
                f"a payload of {len(payload.strings)} strings: {self.name} has "
                f"{len(self.bottleneck.parts)} ({', '.join(self.bottleneck.parts)})"
            )
        self._check_rate(payload.rate)
        if self._shapes(payload.input_size) != payload.shape:
            raise PayloadError(
                f"a latent of {payload.shape[0]}x{payload.shape[1]} of an input of "
                f"{payload.input_size[0]}x{payload.input_size[1]}: the encoder makes none of that"
            )

    def _check_rate(self, level: int | None) -> None:
        if (level is None) != (self.rates is None):
            said = "no rate level" if level is None else f"rate level {level}"
            has = "one rate" if self.rates is None else f"{self.rates.levels} levels"
            raise PayloadError(f"a payload of {said}: {self.name} has {has}")
        if level is not None and self.rates is not None and level >= self.rates.levels:
            raise PayloadError(
                f"a payload of rate level {level}: {self.name} has 0 to {self.rates.levels - 1}"
            )

    def _answers(self, outputs: Mapping[str, Any], index: int, payload: Payload) -> Answers:
        """Return the answers of one image of a batch."""
        classes = objects = mask = None
        if "classification" in outputs:
            classes = self._classes(outputs["classification"][index])
        if "detection" in outputs:
            objects = self._objects(outputs["detection"][index])
        if "segmentation" in outputs:
            labels = outputs["segmentation"][index].argmax(dim=0).to(torch.uint8).cpu().numpy()
            names = self.class_names.get("segmentation")
            mask = Mask(labels_in_image(labels, payload), None if names is None else tuple(names))
        return Answers(classes, objects, mask)

    def _classes(self, logits: Tensor) -> tuple[Found, ...]:
        shares = logits.float().softmax(dim=0)
        scores, labels = (t.tolist() for t in shares.topk(min(BEST, len(shares))))
        return tuple(
            Found(label, self._name("classification", label), score)
            for score, label in zip(scores, labels, strict=True)
        )

    def _objects(self, found: Mapping[str, Tensor]) -> tuple[Found, ...]:
        values = (found[name].tolist() for name in ("labels", "scores", "boxes"))
        objects = [
            Found(label, self._name("detection", label), score, (box[0], box[1], box[2], box[3]))
            for label, score, box in zip(*values, strict=True)
        ]
        return tuple(sorted(objects, key=lambda one: -one.score))

    def _name(self, head: str, label: int) -> str | None:
        names = self.class_names.get(head)
        return (names[label] or None) if names is not None and label < len(names) else None
