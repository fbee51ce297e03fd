"""The three-headed model: one image, one encode, one payload, one body, three answers.

The device runs `encode`; everything after it needs the payload only. Built from three
checkpoints: the classifier's (encoder, entropy bottleneck, decoder, body, its head), the
detector's and the segmenter's (their heads). Each head reads the layers that it read in its own
model, and the body runs no further than to the last of those.
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

from ladon.backbones import BOTTLENECK, Family
from ladon.backbones.splittable import run_head
from ladon.bottlenecks import update_bottleneck
from ladon.choices import HEADS
from ladon.errors import CheckpointError
from ladon.models.checkpoint import Checkpoint, load_into

logger = logging.getLogger(__name__)

_HEADS = {"detection": "roi_heads.", "segmentation": "classifier."}
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


class ThreeHeadedLadon(nn.Module):
    """Encoder, payload, shared body and three heads.

    Attributes:
        layers: name of each layer that a head reads, by the name its own model gives it, by head.
        class_names: names of the classes by head, as far as its checkpoint tells them.
        answering: the head whose answer alone `forward` gives; None: all of them by name.

    Args:
        classifier: splittable classification model; its encoder and body are shared.
        family: the classifier's, whose stages and head it has.
        detector: Faster R-CNN whose FPN, RPN, RoI heads and transform are taken.
        segmenter: DeepLabv3 whose classifier is taken (the auxiliary head only trains).
    """

    bottleneck_layer: Any
    transform: Any
    fpn: nn.Module
    rpn: nn.Module
    roi_heads: nn.Module
    classifier: nn.Module

    def __init__(
        self, classifier: nn.Module, family: Family, detector: Any, segmenter: Any
    ) -> None:
        super().__init__()
        self.family = family
        for name in (BOTTLENECK, *family.stages, *family.head):
            self.add_module(name, getattr(classifier, name))
        self.transform = detector.transform
        self.fpn, self.rpn = detector.backbone.fpn, detector.rpn
        self.roi_heads = detector.roi_heads
        self.classifier = segmenter.classifier
        self.layers = _layers_of(family, detector, segmenter)
        self.class_names: dict[str, list[str] | None] = {}
        self.answering: str | None = None

    def encode(self, images: Tensor) -> dict[str, Any]:
        """Device: turns normalised images [N, 3, H, W] into payloads `{strings, shape}`."""
        return self.bottleneck_layer.encode(images)

    def body(
        self, encoded: Mapping[str, Any], heads: Sequence[str] = HEADS
    ) -> OrderedDict[str, Tensor]:
        """Server: features of the bottleneck's decoder and of the stages behind it.

        Args:
            encoded: from `encode`.
            heads: those that will read the features; stages behind their last layer don't run.
        """
        return self.stages(self.bottleneck_layer.decode(**encoded), heads)

    def stages(self, x: Tensor, heads: Sequence[str] = HEADS) -> OrderedDict[str, Tensor]:
        """Server: `body`, of what the bottleneck's decoder gave.

        Args:
            x: features [N, K, H, W].
            heads: as for `body`.
        """
        wanted = {layer for head in heads for layer in self.layers[head].values()}
        features = OrderedDict([(BOTTLENECK, x)])
        for name in self.family.stages:
            if wanted <= features.keys():
                break
            x = getattr(self, name)(x)
            features[name] = x
        return features

    def classify(self, features: Mapping[str, Tensor]) -> Tensor:
        """Logits [N, K]: what is it?"""
        head = (getattr(self, name) for name in self.family.head)
        return run_head(head, self._read("classification", features)["out"])

    def detect(
        self, features: Mapping[str, Tensor], images: Any, sizes: Sequence[tuple[int, int]]
    ) -> list[dict[str, Tensor]]:
        """Boxes, labels and scores per image: where is it?

        Args:
            features: from `body`.
            images: the transform's ImageList (only its sizes are read).
            sizes: the images' sizes before the transform.
        """
        pyramid = self.fpn(self._read("detection", features))
        proposals, _ = self.rpn(images, pyramid, None)
        detections, _ = self.roi_heads(pyramid, proposals, images.image_sizes, None)
        return self.transform.postprocess(detections, images.image_sizes, list(sizes))

    def segment(self, features: Mapping[str, Tensor], size: Sequence[int]) -> Tensor:
        """Logits [N, K, H, W]: which pixels?"""
        logits = self.classifier(self._read("segmentation", features)["out"])
        return functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)

    def _read(self, head: str, features: Mapping[str, Tensor]) -> OrderedDict[str, Tensor]:
        """Return the features that a head reads, by the names of its own model."""
        return OrderedDict((name, features[layer]) for name, layer in self.layers[head].items())

    def head_state(self, head: str) -> dict[str, Tensor]:
        """Return a head's own tensors, by the names they have in this model."""
        start = _HEADS.get(head, f"{self.family.head[-1]}.")
        return {n: t for n, t in self.state_dict().items() if n.startswith(start)}

    def forward(self, images: Sequence[Tensor] | Tensor, heads: Sequence[str] | None = None) -> Any:
        """Answer of the asked heads, by name, from one encode; of `answering` just the answer.

        Args:
            images: list of (or batched) images [3, H, W] in 0..1; normalised, resized and padded
                here as the detector's transform does.
            heads: which of `HEADS` to run; by default `answering`, or all.
        """
        if heads is None and self.answering is not None:
            return self(images, (self.answering,))[self.answering]
        heads = HEADS if heads is None else heads
        sizes = [tuple(image.shape[-2:]) for image in images]
        batch, _ = self.transform(list(images), None)
        features = self.body(self.encode(batch.tensors), heads)
        answers: dict[str, Any] = {}
        if "classification" in heads:
            answers["classification"] = self.classify(features)
        if "detection" in heads:
            answers["detection"] = self.detect(features, batch, sizes)
        if "segmentation" in heads:
            answers["segmentation"] = self.segment(features, batch.tensors.shape[-2:])
        return answers


def _layers_of(family: Family, detector: Any, segmenter: Any) -> dict[str, dict[str, str]]:
    """Return the layers that each head reads, by the names that its own model gives them.

    Args:
        family: the classifier's.
        detector: Faster R-CNN; its RoI heads read levels by name, '1' to '3'.
        segmenter: DeepLabv3; its auxiliary head, which only trains, counts for nothing.
    """
    returned = {
        "classification": {family.stages[-1]: "out"},
        "detection": detector.backbone.body.return_layer_dict,
        "segmentation": segmenter.backbone.return_layer_dict,
    }
    levels = (BOTTLENECK, *family.stages)  # in the order in which they run, which is the FPN's
    layers = {h: {of[n]: n for n in levels if n in of} for h, of in returned.items()}
    return layers | {"segmentation": {"out": layers["segmentation"]["out"]}}


def assemble(
    models: Mapping[str, nn.Module],
    family: Family,
    checkpoints: Mapping[str, Checkpoint],
    body: str,
) -> ThreeHeadedLadon:
    """Put the three models together around one body.

    Args:
        models: model by head, built without weights.
        family: their backbone's.
        checkpoints: checkpoint by head.
        body: head whose checkpoint gives encoder, entropy bottleneck and body, all of it.

    Raises:
        CheckpointError: if a checkpoint fits its model or the shared body not at all.
    """
    for head, model in models.items():
        load_into(model, checkpoints[head])
    prefixes = {"classification": "", "detection": "backbone.body.", "segmentation": "backbone."}
    levels = (BOTTLENECK, *family.stages)
    parts = {head: _part(checkpoints[head], prefixes[head], levels) for head in HEADS}
    for head in HEADS:
        if head != body:
            _compare_bodies(parts[body], parts[head], checkpoints[body], checkpoints[head], body)
    if body != "classification":
        classifier = models["classification"]
        of_head = checkpoints["classification"].model
        own = {n: t for n, t in of_head.items() if n.split(".", 1)[0] not in levels}
        merged = own | parts[body]
        # FrozenBatchNorm2d keeps no counter: nothing reads it
        load_into(classifier, Checkpoint(checkpoints[body].path, merged))
    update_bottleneck(models["classification"])
    ladon = ThreeHeadedLadon(
        models["classification"], family, models["detection"], models["segmentation"]
    )
    ladon.class_names = {head: checkpoints[head].classes for head in HEADS}
    return ladon


def _part(checkpoint: Checkpoint, prefix: str, levels: Sequence[str]) -> dict[str, Tensor]:
    """Return bottleneck and body of a checkpoint, by the classifier's names."""
    found = {n.removeprefix(prefix): t for n, t in checkpoint.model.items() if n.startswith(prefix)}
    return {name: tensor for name, tensor in found.items() if name.split(".", 1)[0] in levels}


def _compare_bodies(
    ours: Mapping[str, Tensor],
    theirs: Mapping[str, Tensor],
    our_checkpoint: Checkpoint,
    their_checkpoint: Checkpoint,
    body: str,
) -> None:
    """Refuse bodies of another shape, and say by how much bodies of the same shape differ.

    A head whose model ends with the last layer that it reads has only the beginning of a body.
    """
    levels = {name.split(".", 1)[0] for name in theirs}
    learnt = {n for n in ours if _is_learnt(n) and n.split(".", 1)[0] in levels}
    other = {n for n in theirs if _is_learnt(n)}
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
        their_checkpoint.path,
        our_checkpoint.path,
        len(differences),
        len(learnt),
        what,
        differences[worst],
        worst,
        body,
    )


def _is_learnt(name: str) -> bool:
    """Whether a tensor is neither a counter nor one of the entropy coder's tables."""
    return not name.endswith("num_batches_tracked") and "._" not in name


def segmentation_checkpoint(path: str) -> str:
    """Return the name that training writes, where a published file left out its end."""
    if Path(path).expanduser().is_file():
        return path
    written = path.removesuffix(".pt") + "_two_stages.pt"
    if Path(written).expanduser().is_file():
        logger.warning("%s does not exist: using %s", path, written)
        return written
    return path
