"""The network behind the payload: what its heads say of decoded features.

A model for one task runs as it is, but for two things: its bottleneck gives the features that were
decoded, whatever the image, and its own transform, if it has one, the sizes that the payload tells.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from ladon.backbones import Family
from ladon.bottlenecks import Bottleneck
from ladon.codec import Payload
from ladon.models.ladon import ThreeHeadedLadon
from ladon.modules import override_methods

OnStage = Callable[[str, float], None]
"""Told the name of each stage that has ended, and its seconds."""


def synchronized(device: torch.device) -> float:
    """Return the time, once the device has done what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@contextmanager
def stage(name: str, on_stage: OnStage | None, device: torch.device) -> Iterator[None]:
    """Time what is done within it, if anybody wants to know."""
    if on_stage is None:
        yield
        return
    start = synchronized(device)
    yield
    on_stage(name, synchronized(device) - start)


class Heads(Protocol):
    """Body and heads of a model."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the heads: some of 'classification', 'detection', 'segmentation'."""

    def __call__(
        self,
        features: Tensor,
        payloads: Sequence[Payload],
        asked: Sequence[str],
        on_stage: OnStage | None,
    ) -> dict[str, Any]:
        """Return by head what the model's own forward gives.

        Args:
            features: [N, K, H, W] of the bottleneck's decoder.
            payloads: those that the features are of; one size of input.
            asked: heads.
            on_stage: told of 'body' and of each head.
        """


class ThreeHeads:
    """The three heads of a `ThreeHeadedLadon` around one body."""

    def __init__(self, network: ThreeHeadedLadon) -> None:
        self._network = network

    @property
    def names(self) -> tuple[str, ...]:
        """All three."""
        return tuple(self._network.layers)

    def __call__(
        self,
        features: Tensor,
        payloads: Sequence[Payload],
        asked: Sequence[str],
        on_stage: OnStage | None,
    ) -> dict[str, Any]:
        """Run the body once, and the heads that are asked."""
        network, device = self._network, features.device
        with stage("body", on_stage, device):
            levels = network.stages(features, asked)
        answers: dict[str, Any] = {}
        for head in asked:
            with stage(head, on_stage, device):
                if head == "classification":
                    answers[head] = network.classify(levels)
                elif head == "detection":
                    sizes = [payload.image_size for payload in payloads]
                    answers[head] = network.detect(levels, _images(payloads, device), sizes)
                else:
                    answers[head] = network.segment(levels, payloads[0].input_size)
        return answers


class OneHead:
    """The head of a model for one task.

    Args:
        network: the model.
        bottleneck: the model's.
        kind: 'classification', 'detection' or 'segmentation'.
        family: the backbone's, None if it is of none.
    """

    def __init__(
        self, network: nn.Module, bottleneck: Bottleneck, kind: str, family: Family | None
    ) -> None:
        self._network, self._bottleneck, self._kind = network, bottleneck, kind
        self._last_of_body = _last_of_body(network, kind, family)

    @property
    def names(self) -> tuple[str, ...]:
        """The one."""
        return (self._kind,)

    def __call__(
        self,
        features: Tensor,
        payloads: Sequence[Payload],
        asked: Sequence[str],
        on_stage: OnStage | None,
    ) -> dict[str, Any]:
        """Run what comes after the bottleneck."""
        device, ends = features.device, []
        with ExitStack() as stack:
            stack.enter_context(_giving(self._bottleneck, features))
            if on_stage is not None and self._last_of_body is not None:
                hook = self._last_of_body.register_forward_hook(
                    lambda *_args: ends.append(synchronized(device))
                )
                stack.callback(hook.remove)
            start = synchronized(device)
            outputs = self._run(payloads, device, stack)
            if on_stage is not None:
                end = synchronized(device)
                between = ends[-1] if ends else end
                on_stage("body", between - start)
                on_stage(self._kind, end - between)
        return {self._kind: outputs}

    def _run(self, payloads: Sequence[Payload], device: torch.device, stack: ExitStack) -> Any:
        transform = getattr(self._network, "transform", None)
        if isinstance(transform, GeneralizedRCNNTransform):
            images = _images(payloads, device)
            stack.enter_context(
                override_methods(transform, forward=lambda _images, targets=None: (images, targets))
            )
            return self._network([_blank(payload.image_size, device) for payload in payloads])
        batch = _blank(payloads[0].input_size, device).expand(len(payloads), -1, -1, -1)
        outputs = self._network(batch)
        return outputs["out"] if isinstance(outputs, Mapping) else outputs


def _giving(bottleneck: Bottleneck, features: Tensor) -> AbstractContextManager[None]:
    """Let a bottleneck give features whatever its image; models call it in either way."""
    return override_methods(
        bottleneck,
        forward=lambda *_args, **_kwargs: features,
        encode=lambda *_args, **_kwargs: {},
        decode=lambda *_args, **_kwargs: features,
    )


def _blank(size: tuple[int, int], device: torch.device) -> Tensor:
    """Return an image [3, H, W] that takes no memory."""
    return torch.zeros(1, device=device).expand(3, *size)


def _images(payloads: Sequence[Payload], device: torch.device) -> ImageList:
    """Return a detector's transformed images, of which only sizes are read."""
    batch = _blank(payloads[0].input_size, device).expand(len(payloads), -1, -1, -1)
    return ImageList(batch, [payload.scaled_size for payload in payloads])


def _last_of_body(network: nn.Module, kind: str, family: Family | None) -> nn.Module | None:
    """Return the module with which the body ends; None if nothing tells it."""
    backbone = getattr(network, "backbone", None)
    if kind == "detection":
        return getattr(backbone, "body", backbone)
    if kind == "segmentation":
        return backbone
    return None if family is None else getattr(network, family.stages[-1], None)
