"""A bottleneck at work: images to payloads and back, while an evaluation is open."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ladon.bottlenecks.encoder import Encoder
from ladon.bottlenecks.payloads import PayloadSizes
from ladon.errors import PayloadError, UsageError

if TYPE_CHECKING:
    from ladon.bottlenecks.base import Bottleneck

Apply = Callable[[nn.Module, Tensor], Tensor]
"""Runs one of a bottleneck's transforms: directly in training, pinned while it codes."""


class Coder(ABC):
    """A kind's coder: latents to payloads and back, by the tables of an updated bottleneck.

    Threads share it. Between its methods goes what `prepare` returns: whatever a kind needs.
    """

    def at(self, levels: Sequence[int]) -> Coder:
        """Return a coder of images that are each at a level of rate of their own.

        Only kinds that have `rates` are asked.
        """
        raise NotImplementedError(f"{type(self).__name__} has one rate")

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


class Coding:
    """A bottleneck at work: all that lasts as long as an evaluation is open.

    Args:
        bottleneck: its weights and tables must not change.
        mode: one of `ladon.choices.MODES`.
        payloads: filled with the sizes of what is encoded.

    Attributes:
        reuses_latents: whether a thread's latest latent is kept, for the same images again.
    """

    def __init__(self, bottleneck: Bottleneck, mode: str, payloads: PayloadSizes) -> None:
        self._bottleneck, self._mode, self._payloads = bottleneck, mode, payloads
        for module in bottleneck.transforms:
            module.to(memory_format=torch.channels_last)
        self._pinned = {module: Encoder(module) for module in bottleneck.transforms}
        self._coder = bottleneck.coder(self._apply) if bottleneck.updated else None
        self._standing = _Standing()
        self.reuses_latents = False

    def _apply(self, module: nn.Module, x: Tensor) -> Tensor:
        # of few pixels or channels several strides are channels_last: by them, too, libraries
        # choose, and sender and receiver have theirs from elsewhere
        return self._pinned[module](torch.empty_like(x, memory_format=torch.channels_last).copy_(x))

    def analyse(self, images: Tensor) -> Tensor:
        """Return the latent [N, C, h, w] float32 of images [N, 3, H, W]."""
        latest = self._standing.latest
        if latest is not None and torch.equal(latest[0], images):
            return latest[1]
        latent = self._pinned[self._bottleneck.analysis](images).detach()
        self._payloads.note(latent)
        if self.reuses_latents:
            self._standing.latest = images, latent
        return latent

    @contextmanager
    def at_level(self, level: int) -> Iterator[None]:
        """Within it, what this thread codes is at a level of rate, unless it names another one.

        Raises:
            UsageError: the bottleneck has no such level.
        """
        rates = self._bottleneck.rates
        if rates is None:
            raise UsageError(f"{type(self._bottleneck).__name__} has one rate, and no levels")
        rates.check([level])
        before, self._standing.level = self._standing.level, level
        try:
            yield
        finally:
            self._standing.level = before

    def _levels(self, images: int, levels: Sequence[int] | None) -> list[int] | None:
        """Return the levels of so many images; None where the bottleneck has one rate."""
        rates = self._bottleneck.rates
        if rates is None:
            if levels is not None:
                raise UsageError(f"{type(self._bottleneck).__name__} has one rate, and no levels")
            return None
        if levels is None:
            level = self._standing.level
            return [self._bottleneck.level if level is None else level] * images
        if len(levels) != images:
            raise UsageError(f"levels of {len(levels)} images for {images}")
        rates.check(levels)
        return list(levels)

    def code(self, latent: Tensor, levels: Sequence[int] | None = None) -> dict[str, Any]:
        """Turn a latent into payloads.

        Args:
            latent: [N, C, h, w] float32.
            levels: of rate, of each image, where the bottleneck has several; None: the one that
                `at_level` names, or the bottleneck's own.

        Returns:
            What `read` takes: `strings`, the quantised latent itself where the mode decodes
            nothing, `shape`, and `levels` where there are several.
        """
        levels = self._levels(len(latent), levels)
        coder, is_estimate = self._coder_at(levels), self._mode == "estimate"
        prepared = coder.prepare(latent)
        if is_estimate:
            strings = [[bytes(size) for size in sizes] for sizes in coder.estimate(prepared)]
        else:
            strings = coder.encode(prepared)
        return self._coded(coder, prepared, strings, levels, is_estimate=is_estimate)

    def _coded(
        self,
        coder: Coder,
        prepared: Any,
        strings: list[list[bytes]],
        levels: list[int] | None,
        *,
        is_estimate: bool = False,
    ) -> dict[str, Any]:
        """Note payloads; return what `code` does."""
        shape = coder.shape(prepared)
        by_part = dict(zip(self._bottleneck.parts, strings, strict=True))
        self._payloads.add(by_part, shape, is_estimate=is_estimate)
        coded = strings if self._mode == "full" else coder.quantize(prepared)
        return {"strings": coded, "shape": shape, **({} if levels is None else {"levels": levels})}

    def code_within(self, latent: Tensor, most_bytes: int) -> dict[str, Any]:
        """Turn one image's latent into the finest payload of at most so many bytes.

        Args:
            latent: [1, C, h, w] float32.
            most_bytes: of its strings together.

        Returns:
            As `code` does.

        Raises:
            DataError: the image takes more at the coarsest rate.
            UsageError: the bottleneck has one rate.
        """
        rates = self._bottleneck.rates
        if rates is None or len(self._bottleneck.parts) != 1:
            raise UsageError(
                f"{type(self._bottleneck).__name__} has one rate: it keeps to no budget"
            )

        def encode(level: int) -> bytes:
            coder = self._coder_at([level])
            return coder.encode(coder.prepare(latent))[0][0]

        level, string = rates.finest(encode, most_bytes)
        coder = self._coder_at([level])
        return self._coded(coder, coder.prepare(latent), [[string]], [level])

    def encode(self, images: Tensor, levels: Sequence[int] | None = None) -> dict[str, Any]:
        """Encode images [N, 3, H, W]; return what `decode` takes, as `code` does."""
        return self.code(self.analyse(images), levels)

    def read(
        self, strings: Any, shape: Sequence[int], levels: Sequence[int] | None = None
    ) -> Tensor:
        """Return what `synthesise` takes of what `code` returned.

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
        return self._coder_at(self._levels(len(strings[0]), levels)).decode(strings, shape)

    def synthesise(self, latent: Tensor) -> Tensor:
        """Return features [N, K, H, W] of a latent as `read` returns it."""
        return decode_latent(self._bottleneck.synthesis, latent)

    def decode(
        self, strings: Any, shape: Sequence[int], levels: Sequence[int] | None = None
    ) -> Tensor:
        """Decode what `encode` returned to features [N, K, H, W]."""
        return self.synthesise(self.read(strings, shape, levels))

    def __call__(self, images: Tensor) -> Tensor:
        """Return features of images; before there are tables, of their quantised latent."""
        if self._coder is not None:
            return self.decode(**self.encode(images))
        latent = self.analyse(images)
        return self.synthesise(self._bottleneck.quantized(latent, self._apply))

    def _coder_at(self, levels: Sequence[int] | None) -> Coder:
        if self._coder is None:
            raise UsageError("CDF tables are missing: update() the bottleneck")
        return self._coder if levels is None else self._coder.at(levels)


class _Standing(threading.local):
    """A thread's state.

    Attributes:
        level: of rate that it codes at; None: the bottleneck's own.
        latest: images and their latent, where they may come again.
    """

    level: int | None = None
    latest: tuple[Tensor, Tensor] | None = None


def decode_latent(synthesis: nn.Module, latent: Tensor) -> Tensor:
    """Run the decoder in channels_last; on a CPU one image at a time, as its caches have it.

    Args:
        synthesis: the bottleneck's decoder, weights in channels_last.
        latent: [N, C, h, w] float32, of several rates with one channel more.

    Returns:
        Features [N, K, H, W].
    """
    latent = latent.contiguous(memory_format=torch.channels_last)
    if latent.is_cuda:
        return synthesis(latent)
    return torch.cat([synthesis(one[None]) for one in latent])
