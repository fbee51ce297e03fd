"""The protocol of a bottleneck: all that the library asks of a kind (see `ladon.bottlenecks`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from sc2bench.models.layer import BaseBottleneck, register_layer_class
from torch import Tensor, nn

from ladon.bottlenecks.encoder import Encoder, pinned_arithmetic
from ladon.bottlenecks.entropy import entropy_models, own_entropy_models
from ladon.bottlenecks.payloads import PayloadSizes
from ladon.codec import BottleneckKind
from ladon.errors import PayloadError, UsageError

Apply = Callable[[nn.Module, Tensor], Tensor]
"""Runs one of a bottleneck's transforms: directly in training, pinned while it codes."""

register = register_layer_class
"""Makes a kind known by its class's name, the `key` of a config's `bottleneck_config`; a class
decorator, sc2bench's own: models are built from that table."""


def directly(module: nn.Module, x: Tensor) -> Tensor:
    """Run a transform as it is."""
    return module(x)


class Coder(ABC):
    """A kind's coder: latents to payloads and back, by the tables of an updated bottleneck.

    Threads share it. Between its methods goes what `prepare` returns: whatever a kind needs.
    """

    def prepare(self, latent: Tensor) -> Any:
        """Return a latent [N, C, h, w] with what its coding depends on, computed once."""
        return latent

    @abstractmethod
    def quantize(self, prepared: Any) -> Tensor:
        """Return the latent as the decoder will see it."""

    @abstractmethod
    def encode(self, prepared: Any) -> list[list[bytes]]:
        """Return of each part of the payload those of all images."""

    @abstractmethod
    def estimate(self, prepared: Any) -> list[list[int]]:
        """Return what `encode` would take in bytes, from the tables alone."""

    @abstractmethod
    def shape(self, prepared: Any) -> torch.Size:
        """Return the (h, w) that goes with the payloads."""

    @abstractmethod
    def decode(self, strings: Sequence[Sequence[bytes]], shape: Sequence[int]) -> Tensor:
        """Return the latent of payloads, from wherever.

        Args:
            strings: of each part those of all images.
            shape: from `shape`.

        Raises:
            PayloadError: if one is truncated, extended or otherwise damaged.
        """


class Bottleneck(BaseBottleneck, ABC):
    """A bottleneck that this library trains, codes and measures.

    Attributes:
        parts: names of its payload's parts, in the order of `Coder.encode`.
        payload_kind: its number in payloads; of a user's own kind there is none.

    Args:
        args: of the class of sc2bench or CompressAI that a kind stands on, its own entropy
            models made anew to draw their noise from the run's generator.
        kwargs: likewise.
    """

    parts: ClassVar[tuple[str, ...]] = ("latent",)
    payload_kind: ClassVar[BottleneckKind] = BottleneckKind.OWN
    _coding: Coding | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        own_entropy_models(self)

    @property
    @abstractmethod
    def analysis(self) -> nn.Module:
        """From images to the latent: the encoder."""

    @property
    @abstractmethod
    def synthesis(self) -> nn.Module:
        """From the quantised latent to features: the decoder, all that is behind the payload."""

    @property
    def transforms(self) -> tuple[nn.Module, ...]:
        """The transforms that payloads depend on: sender and receiver must compute them alike."""
        return (self.analysis,)

    @property
    def shaping(self) -> tuple[nn.Module, ...]:
        """The transforms whose last output has the height and width of `Coder.shape`."""
        return (self.analysis,)

    @property
    def pinned(self) -> tuple[nn.Module, ...]:
        """The modules that compute in float32 and in one form, whatever the others do."""
        return (*self.transforms, *entropy_models(self).values())

    @abstractmethod
    def noisy(self, latent: Tensor) -> Tensor:
        """Return what is decoded while the rate is learnt; it goes through the entropy models,
        whose likelihoods a stage's hooks read."""

    @abstractmethod
    def quantized(self, latent: Tensor, apply: Apply) -> Tensor:
        """Return what is decoded of a latent once it is rounded; needs no tables.

        Args:
            latent: [N, C, h, w].
            apply: runs a transform.
        """

    @abstractmethod
    def coder(self, apply: Apply) -> Coder:
        """Return a coder by the tables as they are now.

        Args:
            apply: runs a transform.
        """

    def forward(self, images: Tensor) -> Tensor:
        """Features of images [N, 3, H, W]: coded in evaluation, else quantised or with noise."""
        if self._coding is not None or (self.updated and not self.training):
            with self._at_work() as coding:
                return coding(images)
        latent = self.analysis(images)
        if self.updated:  # the encoder has learnt: nothing flows back through rounding
            return self.synthesis(self.quantized(latent, directly).detach())
        return self.synthesis(self.noisy(latent))

    def encode(self, images: Tensor, **_: object) -> dict[str, Any]:
        """Return the payloads of images [N, 3, H, W]: strings by part and image, and a shape."""
        with self._at_work() as coding:
            return coding.encode(images)

    def decode(self, strings: Any, shape: Sequence[int]) -> Tensor:
        """Return features of what `encode` returned.

        Raises:
            PayloadError: if a payload is damaged.
        """
        with self._at_work() as coding:
            return coding.decode(strings, shape)

    @property
    def is_coding(self) -> bool:
        """Whether an evaluation is open."""
        return self._coding is not None

    @property
    def coding(self) -> Coding:
        """The open evaluation's coding.

        Raises:
            UsageError: none is open.
        """
        if self._coding is None:
            raise UsageError("no evaluation is open: enter `ladon.models.inference` first")
        return self._coding

    @contextmanager
    def _at_work(self) -> Iterator[Coding]:
        """Yield the evaluation's coding; outside of any, one for a single call."""
        if self._coding is not None:
            yield self._coding
            return
        with pinned_arithmetic():
            yield Coding(self, "full", PayloadSizes())

    @contextmanager
    def coded_by(self, coding: Coding) -> Iterator[None]:
        """Run the bottleneck by a coding while it is open, in all threads."""
        before = self._coding
        self._coding = coding
        try:
            yield
        finally:
            self._coding = before


class Coding:
    """A bottleneck at work: all that lasts as long as an evaluation is open.

    Args:
        bottleneck: its weights and tables must not change.
        mode: one of `ladon.choices.MODES`.
        payloads: filled with the sizes of what is encoded.
    """

    def __init__(self, bottleneck: Bottleneck, mode: str, payloads: PayloadSizes) -> None:
        self._bottleneck, self._mode, self._payloads = bottleneck, mode, payloads
        for module in bottleneck.transforms:
            module.to(memory_format=torch.channels_last)
        self._pinned = {module: Encoder(module) for module in bottleneck.transforms}
        self._coder = bottleneck.coder(self._apply) if bottleneck.updated else None

    def _apply(self, module: nn.Module, x: Tensor) -> Tensor:
        # of few pixels or channels several strides are channels_last: by them, too, libraries
        # choose, and sender and receiver have theirs from elsewhere
        return self._pinned[module](torch.empty_like(x, memory_format=torch.channels_last).copy_(x))

    def analyse(self, images: Tensor) -> Tensor:
        """Return the latent [N, C, h, w] float32 of images [N, 3, H, W]."""
        latent = self._pinned[self._bottleneck.analysis](images).detach()
        self._payloads.note(latent)
        return latent

    def code(self, latent: Tensor) -> dict[str, Any]:
        """Turn a latent into payloads.

        Returns:
            What `read` takes: `strings`, the quantised latent itself where the mode decodes
            nothing, and `shape`.
        """
        coder, is_estimate = self._has_tables(), self._mode == "estimate"
        prepared = coder.prepare(latent)
        shape = coder.shape(prepared)
        if is_estimate:
            strings = [[bytes(size) for size in sizes] for sizes in coder.estimate(prepared)]
        else:
            strings = coder.encode(prepared)
        by_part = dict(zip(self._bottleneck.parts, strings, strict=True))
        self._payloads.add(by_part, shape, is_estimate=is_estimate)
        coded = strings if self._mode == "full" else coder.quantize(prepared)
        return {"strings": coded, "shape": shape}

    def encode(self, images: Tensor) -> dict[str, Any]:
        """Encode images [N, 3, H, W]; return what `decode` takes, as `code` does."""
        return self.code(self.analyse(images))

    def read(self, strings: Any, shape: Sequence[int]) -> Tensor:
        """Return the latent [N, C, h, w] of what `code` returned.

        Raises:
            PayloadError: a payload is damaged.
        """
        if isinstance(strings, Tensor):
            return strings
        parts = self._bottleneck.parts
        if len(strings) != len(parts) or len({len(images) for images in strings}) != 1:
            numbers = " and ".join(str(len(images)) for images in strings) or "none"
            raise PayloadError(
                f"payloads of {numbers} images: as many are needed of each part "
                f"({', '.join(parts)})"
            )
        return self._has_tables().decode(strings, shape)

    def synthesise(self, latent: Tensor) -> Tensor:
        """Return features [N, K, H, W] of a latent."""
        return decode_latent(self._bottleneck.synthesis, latent)

    def decode(self, strings: Any, shape: Sequence[int]) -> Tensor:
        """Decode what `encode` returned to features [N, K, H, W]."""
        return self.synthesise(self.read(strings, shape))

    def __call__(self, images: Tensor) -> Tensor:
        """Return features of images; before there are tables, of their quantised latent."""
        if self._coder is not None:
            return self.decode(**self.encode(images))
        latent = self.analyse(images)
        return self.synthesise(self._bottleneck.quantized(latent, self._apply))

    def _has_tables(self) -> Coder:
        if self._coder is None:
            raise UsageError("CDF tables are missing: update() the bottleneck")
        return self._coder


def decode_latent(synthesis: nn.Module, latent: Tensor) -> Tensor:
    """Run the decoder in channels_last; on a CPU one image at a time, as its caches have it.

    Args:
        synthesis: the bottleneck's decoder, weights in channels_last.
        latent: [N, C, h, w] float32.

    Returns:
        Features [N, K, H, W].
    """
    latent = latent.contiguous(memory_format=torch.channels_last)
    if latent.is_cuda:
        return synthesis(latent)
    return torch.cat([synthesis(one[None]) for one in latent])
