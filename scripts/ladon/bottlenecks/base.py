"""The protocol of a bottleneck: all that the library asks of a kind (see `ladon.bottlenecks`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

from sc2bench.models.layer import BaseBottleneck, register_layer_class
from torch import Tensor, nn

from ladon.bottlenecks.coding import Apply, Coder, Coding
from ladon.bottlenecks.encoder import pinned_arithmetic
from ladon.bottlenecks.entropy import entropy_models, own_entropy_models
from ladon.bottlenecks.payloads import PayloadSizes
from ladon.codec import BottleneckKind
from ladon.codec.rates import Rates
from ladon.errors import UsageError

register = register_layer_class
"""Makes a kind known by its class's name, the `key` of a config's `bottleneck_config`; a class
decorator, sc2bench's own: models are built from that table."""


def directly(module: nn.Module, x: Tensor) -> Tensor:
    """Run a transform as it is."""
    return module(x)


class Bottleneck(BaseBottleneck, ABC):
    """A bottleneck that this library trains, codes and measures.

    Attributes:
        parts: names of its payload's parts, in the order of `Coder.encode`.
        payload_kind: its number in payloads; of a user's own kind there is none.
        rates: its levels of rate; None of a kind that has one rate.
        level: the level that it is at in evaluation, unless it is told another one.

    Args:
        args: of the class of sc2bench or CompressAI that a kind stands on, its own entropy
            models made anew to draw their noise from the run's generator.
        kwargs: likewise.
    """

    parts: ClassVar[tuple[str, ...]] = ("latent",)
    payload_kind: ClassVar[BottleneckKind] = BottleneckKind.OWN
    rates: Rates | None = None
    level: int = 0
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

    def completed(self, state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """Return a plainer kind's tensors, by name, with what a training adds to them.

        Args:
            state: of a bottleneck of some kind.

        Returns:
            Tensors of this kind; None if they are of no plainer kind that it can start from.
        """
        return None

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

    def decode(
        self, strings: Any, shape: Sequence[int], levels: Sequence[int] | None = None
    ) -> Tensor:
        """Return features of what `encode` returned.

        Raises:
            PayloadError: if a payload is damaged.
        """
        with self._at_work() as coding:
            return coding.decode(strings, shape, levels)

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
