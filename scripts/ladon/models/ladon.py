"""The three-headed model: one image, one encode, one payload, one body, three answers.

The device runs ``encode``; everything after it needs the payload only. Built from three
checkpoints: the classifier's (encoder, entropy bottleneck, decoder, body, its head), the
detector's and the segmenter's (their heads).
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ladon.bottlenecks import update_bottleneck
from ladon.errors import CheckpointError
from ladon.models.checkpoint import Checkpoint, load_into

logger = logging.getLogger(__name__)

HEADS = ("classification", "detection", "segmentation")
_HEADS = {"classification": "fc.", "detection": "roi_heads.", "segmentation": "classifier."}
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
_LEVELS = ("bottleneck_layer", "layer2", "layer3", "layer4")


class ThreeHeadedLadon(nn.Module):
    """Encoder, payload, shared body and three heads.

    Attributes:
        class_names: names of the classes by head, as far as its checkpoint tells them.
        answering: the head whose answer alone `forward` gives; None: all of them by name.

    Args:
        classifier: splittable classification model; its encoder and body are shared.
        detector: Faster R-CNN whose FPN, RPN, RoI heads and transform are taken.
        segmenter: DeepLabv3 whose classifier is taken (the auxiliary head only trains).
    """

    def __init__(self, classifier: nn.Module, detector: nn.Module, segmenter: nn.Module) -> None:
        super().__init__()
        self.bottleneck_layer = classifier.bottleneck_layer
        self.layer2, self.layer3 = classifier.layer2, classifier.layer3
        self.layer4 = classifier.layer4
        self.avgpool, self.fc = classifier.avgpool, classifier.fc
        self.transform = detector.transform
        self.fpn, self.rpn = detector.backbone.fpn, detector.rpn
        self.roi_heads = detector.roi_heads
        self.classifier = segmenter.classifier
        # the names under which the FPN was trained: the RoI heads read '1' to '3'
        self._names = dict(detector.backbone.body.return_layer_dict)
        self.class_names: dict[str, list[str] | None] = {}
        self.answering: str | None = None

    def encode(self, images: Tensor) -> dict[str, Any]:
        """Device: turns normalised images [N, 3, H, W] into payloads ``{strings, shape}``."""
        return self.bottleneck_layer.encode(images)

    def body(self, encoded: Mapping[str, Any]) -> OrderedDict[str, Tensor]:
        """Server: features of the bottleneck's decoder and of layers 2 to 4."""
        x = self.bottleneck_layer.decode(**encoded)
        features = OrderedDict([("bottleneck_layer", x)])
        for name in _LEVELS[1:]:
            x = getattr(self, name)(x)
            features[name] = x
        return features

    def classify(self, features: Mapping[str, Tensor]) -> Tensor:
        """Logits [N, 1000]: what is it?"""
        return self.fc(torch.flatten(self.avgpool(features["layer4"]), 1))

    def detect(
        self, features: Mapping[str, Tensor], images: Any, sizes: Sequence[tuple[int, int]]
    ) -> list[dict[str, Tensor]]:
        """Boxes, labels and scores per image: where is it?

        Args:
            features: from ``body``.
            images: the transform's ImageList (only its sizes are read).
            sizes: the images' sizes before the transform.
        """
        named = {self._names[n]: f for n, f in features.items() if n in self._names}
        pyramid = self.fpn(OrderedDict(named))
        proposals, _ = self.rpn(images, pyramid, None)
        detections, _ = self.roi_heads(pyramid, proposals, images.image_sizes, None)
        return self.transform.postprocess(detections, images.image_sizes, list(sizes))

    def segment(self, features: Mapping[str, Tensor], size: Sequence[int]) -> Tensor:
        """Logits [N, 21, H, W]: which pixels?"""
        logits = self.classifier(features["layer4"])
        return functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)

    def head_state(self, head: str) -> dict[str, Tensor]:
        """A head's own tensors, by the names they have in this model."""
        start = _HEADS[head]
        return {n: t for n, t in self.state_dict().items() if n.startswith(start)}

    def forward(self, images: Sequence[Tensor] | Tensor, heads: Sequence[str] | None = None) -> Any:
        """Answers of the asked heads, by name, from one encode; of `answering` just the answer.

        Args:
            images: list of (or batched) images [3, H, W] in 0..1; normalised, resized and padded
                here as the detector's transform does.
            heads: which of ``HEADS`` to run; by default `answering`, or all.
        """
        if heads is None and self.answering is not None:
            return self(images, (self.answering,))[self.answering]
        heads = HEADS if heads is None else heads
        sizes = [tuple(image.shape[-2:]) for image in images]
        batch, _ = self.transform(list(images), None)
        features = self.body(self.encode(batch.tensors))
        answers: dict[str, Any] = {}
        if "classification" in heads:
            answers["classification"] = self.classify(features)
        if "detection" in heads:
            answers["detection"] = self.detect(features, batch, sizes)
        if "segmentation" in heads:
            answers["segmentation"] = self.segment(features, batch.tensors.shape[-2:])
        return answers


def assemble(
    models: Mapping[str, nn.Module], checkpoints: Mapping[str, Checkpoint], body: str
) -> ThreeHeadedLadon:
    """Puts the three models together around one body.

    Args:
        models: model by head, built without weights.
        checkpoints: checkpoint by head.
        body: head whose checkpoint gives encoder, entropy bottleneck and body.

    Raises:
        CheckpointError: if a checkpoint fits its model or the shared body not at all.
    """
    for head, model in models.items():
        load_into(model, checkpoints[head])
    prefixes = {"classification": "", "detection": "backbone.body.", "segmentation": "backbone."}
    parts = {head: _part(checkpoints[head], prefixes[head]) for head in HEADS}
    for head in HEADS:
        if head != body:
            _compare_bodies(parts[body], parts[head], checkpoints[body], checkpoints[head], body)
    if body != "classification":
        classifier = models["classification"]
        own = {n: t for n, t in checkpoints["classification"].model.items() if not _is_body(n)}
        merged = own | parts[body]
        # FrozenBatchNorm2d keeps no counter: nothing reads it
        load_into(classifier, Checkpoint(checkpoints[body].path, merged))
    update_bottleneck(models["classification"])
    ladon = ThreeHeadedLadon(*(models[head] for head in HEADS))
    ladon.class_names = {head: checkpoints[head].classes for head in HEADS}
    return ladon


def _is_body(name: str) -> bool:
    return name.startswith(tuple(f"{level}." for level in _LEVELS))


def _part(checkpoint: Checkpoint, prefix: str) -> dict[str, Tensor]:
    """Encoder, entropy bottleneck, decoder and body of a checkpoint, by the classifier's names."""
    found = {n.removeprefix(prefix): t for n, t in checkpoint.model.items() if n.startswith(prefix)}
    return {name: tensor for name, tensor in found.items() if _is_body(name)}


def _compare_bodies(
    ours: Mapping[str, Tensor],
    theirs: Mapping[str, Tensor],
    our_checkpoint: Checkpoint,
    their_checkpoint: Checkpoint,
    body: str,
) -> None:
    """Refuses bodies of another shape, and says by how much bodies of the same shape differ."""
    learnt = {n for n in ours if not n.endswith("num_batches_tracked") and "._" not in n}
    other = {n for n in theirs if not n.endswith("num_batches_tracked") and "._" not in n}
    levels = [level for level in _LEVELS if any(n.startswith(f"{level}.") for n in other)]
    if levels and levels != list(_LEVELS):
        raise CheckpointError(
            f"{their_checkpoint.path}: its body ends with {levels[-1]}, and the heads of this "
            f"model stand on one body that ends with {_LEVELS[-1]}: train it with {_LEVELS[-1]} "
            "in its return_layer_dict"
        )
    odd = sorted(learnt ^ other) or sorted(n for n in learnt if ours[n].shape != theirs[n].shape)
    if odd:
        raise CheckpointError(
            f"{their_checkpoint.path}: its body does not fit that of {our_checkpoint.path} "
            f"({len(odd)} tensors, {odd[0]} first): another backbone or bottleneck"
        )
    differences = {
        n: float((ours[n].double() - theirs[n].double()).abs().max())
        for n in sorted(learnt)
        if not torch.equal(ours[n], theirs[n])
    }
    if not differences:
        return
    weights = [n for n in differences if n.rsplit(".", 1)[-1] not in _STATISTICS]
    worst = max(differences, key=differences.__getitem__)
    what = (
        f"{len(weights)} of them learnt weights: its head was trained on another body (another "
        "beta?), and its accuracy will suffer"
        if weights
        else "all of them BatchNorm statistics, which moved while its head was trained"
    )
    logger.warning(
        "%s: its body differs from that of %s in %d of %d tensors, %s. Largest difference: %.4g "
        "(%s). The body of the %s checkpoint is used; models.model.body chooses another",
        *(their_checkpoint.path, our_checkpoint.path, len(differences), len(learnt), what),
        *(differences[worst], worst, body),
    )


def segmentation_checkpoint(path: str | None) -> str | None:
    """The name that training writes, where a published three-headed file left out its end."""
    if path is None or Path(path).expanduser().is_file():
        return path
    written = path.removesuffix(".pt") + "_two_stages.pt"
    if Path(written).expanduser().is_file():
        logger.warning("%s does not exist: using %s", path, written)
        return written
    return path
