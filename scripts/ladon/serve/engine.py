"""What answers payloads: finds the model, batches, runs the network in a thread of its own."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, Protocol

from ladon.choices import PRECISIONS
from ladon.codec.container import Payload, Size
from ladon.edge.protocol import ANY_MODEL
from ladon.errors import DataError, PayloadError, UsageError
from ladon.serve.batching import Batcher
from ladon.serve.models import Library, Load, ModelInfo
from ladon.serve.refusals import Refusal, no_such_model, refusal_of
from ladon.split.answers import Answers

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """How an engine works.

    Attributes:
        sources: configs or checkpoints of its models.
        most_bytes: of the weights of models that are in memory together.
        max_batch: payloads that are answered together.
        max_delay: seconds that one waits for others while the network is idle.
        max_pixels: of a batch's encoder inputs together, by which the network's memory is bounded.
        max_image_pixels: of an image whose mask is made.
        threads: torch's; None: its default.
        device: 'cpu', 'cuda' or 'cuda:N'.
        precision: one of `ladon.choices.PRECISIONS`.
    """

    sources: tuple[str, ...]
    most_bytes: int = 4 << 30
    max_batch: int = 8
    max_delay: float = 0.002
    max_pixels: int = 1 << 23
    max_image_pixels: int = 1 << 25
    threads: int | None = None
    device: str = "cpu"
    precision: str = PRECISIONS[0]


@dataclass(frozen=True, kw_only=True, eq=False)
class Answered:
    """A payload's answers, and how they came about.

    Attributes:
        info: of the model that gave them.
        answers: of the heads that were asked.
        seconds: of the batch by stage, and of the payload's wait as 'queue'.
        batch_size: payloads that were answered together.
        is_first: whether this is the batch's first: what is counted by batch is counted here.
        num_loaded: models in memory.
        worker: where: 'local', or a replica's name.
        tries: 1, or more if replicas were lost.
    """

    info: ModelInfo
    answers: Answers
    seconds: Mapping[str, float]
    batch_size: int
    is_first: bool
    num_loaded: int
    worker: str = "local"
    tries: int = 1


class Encoded(NamedTuple):
    """A picture's payload, and the seconds that it took by stage.

    The stages are 'queue', 'reading' (of the file) and those of `SplitModel.encode`.
    """

    payload: bytes
    seconds: Mapping[str, float]


class Engine(Protocol):
    """Answers payloads; for one event loop."""

    @property
    def is_alive(self) -> bool:
        """Whether it can answer."""

    async def start(self) -> Mapping[str, ModelInfo]:
        """Load the models; return them by name.

        Raises:
            LadonError: one cannot be loaded.
        """

    async def answer(self, data: bytes, heads: Sequence[str] | None, model: str) -> Answered:
        """Answer a payload.

        Args:
            data: the payload's bytes.
            heads: those that are asked; None: all that the model has.
            model: its name, or `ladon.edge.protocol.ANY_MODEL`.

        Raises:
            Refusal: it cannot be answered, by its sender's fault.
        """

    async def encode(self, image: bytes, model: str, rate: float | None = None) -> Encoded:
        """Encode a picture, as a device does with its own half of a model.

        Args:
            image: a file of any format that Pillow reads.
            model: its name.
            rate: β, of a model for every rate; None: the middle one.

        Raises:
            Refusal: it is no picture, or too large.
        """

    async def close(self) -> None:
        """Let go of everything."""


class _Key(NamedTuple):
    """Of payloads that can be answered together."""

    name: str
    heads: tuple[str, ...]
    batch_key: Hashable


class _Pictures(NamedTuple):
    """Of pictures that a model encodes, at a rate."""

    name: str
    rate: float | None


class LocalEngine:
    """An engine in this process: payloads are read in one thread, the network runs in another.

    Args:
        settings: how it works.
        load: loads a model; `ladon.load` by default.
    """

    def __init__(self, settings: EngineSettings, load: Load | None = None) -> None:
        self.settings = settings
        self._load = load
        self._library = Library(settings.sources, settings.most_bytes, self._load_model)
        self._batcher = Batcher(
            self._work,
            max_batch=settings.max_batch,
            max_delay=settings.max_delay,
            max_cost=settings.max_pixels,
        )
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="payloads")

    @property
    def is_alive(self) -> bool:
        """Whether batches are worked on."""
        return self._batcher.is_alive

    async def start(self) -> Mapping[str, ModelInfo]:
        """Load the models; return them by name."""
        return await self._batcher.start(self._open)

    async def close(self) -> None:
        """Stop; the batch that is worked on is finished in its thread."""
        await self._batcher.close()
        self._reader.shutdown(wait=False, cancel_futures=True)

    async def answer(self, data: bytes, heads: Sequence[str] | None, model: str) -> Answered:
        """Answer a payload."""
        loop = asyncio.get_running_loop()
        came = loop.time()
        read = partial(self._read, data, heads, model)
        key, payload = await loop.run_in_executor(self._reader, read)
        height, width = payload.input_size
        try:
            answered: Answered = await self._batcher.submit(key, payload, height * width)
        except PayloadError as error:
            raise refusal_of(error) from error
        took = sum(answered.seconds.values())
        waited = max(0.0, loop.time() - came - took)
        return replace(answered, seconds={"queue": waited, **answered.seconds})

    async def encode(self, image: bytes, model: str, rate: float | None = None) -> Encoded:
        """Encode a picture."""
        if model not in self._library.infos:
            raise no_such_model(model, self._library.infos)
        loop = asyncio.get_running_loop()
        came = loop.time()
        # as costly as a batch, so that others have their turn between two pictures
        cost = self.settings.max_pixels
        encoded: Encoded = await self._batcher.submit(_Pictures(model, rate), image, cost)
        waited = max(0.0, loop.time() - came - sum(encoded.seconds.values()))
        return encoded._replace(seconds={"queue": waited, **encoded.seconds})

    def _open(self) -> Mapping[str, ModelInfo]:
        if self.settings.threads is not None:
            import torch

            torch.set_num_threads(self.settings.threads)
        return self._library.open()

    def _load_model(self, source: str) -> Any:
        if self._load is not None:
            return self._load(source)
        import ladon

        return ladon.load(source, device=self.settings.device, precision=self.settings.precision)

    def _read(self, data: bytes, heads: Sequence[str] | None, name: str) -> tuple[_Key, Payload]:
        """Return a payload and what it can be batched by."""
        from ladon.split.model import SplitModel  # torch, which the models have loaded

        infos = self._library.infos
        if name != ANY_MODEL and name not in infos:
            raise no_such_model(name, infos)
        those = list(infos.values()) if name == ANY_MODEL else [infos[name]]
        try:
            payload = Payload.from_bytes(data, expected={info.encoder_id for info in those})
        except UsageError as error:
            raise refusal_of(error) from error
        those = [info for info in those if info.encoder_id == payload.encoder_id]
        if len(those) > 1:  # unless one has been named like all of them
            those = [info for info in those if info.name == name] or those
        if len(those) > 1:
            raise Refusal(
                422,
                "model",
                f"several models have encoder {payload.encoder_id.hex()}: send this to one of "
                f"{', '.join(info.name for info in those)}",
            )
        self._check_input(payload.input_size)
        self._check_image(payload.image_size)
        (info,) = those
        asked = info.heads if heads is None else tuple(heads)
        if missing := [head for head in asked if head not in info.heads]:
            raise Refusal(
                400, "heads", f"{info.name} has no head {missing[0]}: {', '.join(info.heads)}"
            )
        return _Key(info.name, asked, SplitModel.batch_key(payload)), payload

    def _check_input(self, size: Size) -> None:
        _check_size("an encoder's input", size, self.settings.max_pixels)

    def _check_image(self, size: Size) -> None:
        _check_size("an image", size, self.settings.max_image_pixels)

    def _work(self, key: _Key | _Pictures, items: Sequence[Any]) -> Sequence[Any]:
        if isinstance(key, _Pictures):
            return [self._encode(key, image) for image in items]
        return self._answer_batch(key, items)

    def _encode(self, key: _Pictures, data: bytes) -> Encoded:
        from ladon.images import open_image, read_size

        model = self._library.get(key.name)
        seconds: dict[str, float] = {}
        try:
            start = time.perf_counter()
            self._check_image(read_size(data))
            image = open_image(data, upright=True)
            seconds["reading"] = time.perf_counter() - start
            start = time.perf_counter()
            fitted = model.fit(image)
            seconds["fit"] = time.perf_counter() - start
            self._check_input(fitted.input_size)
            on_stage = seconds.__setitem__
            if key.rate is None:
                payload = model.encode_fitted(fitted, on_stage=on_stage)
            else:
                payload = model.encode_fitted(fitted, rate=key.rate, on_stage=on_stage)
        except DataError as error:
            raise Refusal(415, "picture", str(error)) from error
        except UsageError as error:
            raise Refusal(422, "rate", str(error)) from error
        return Encoded(payload.to_bytes(), seconds)

    def _answer_batch(self, key: _Key, payloads: Sequence[Payload]) -> list[Answered | Exception]:
        """Answer payloads of one key; one that cannot be answered does not spoil the others."""
        model = self._library.get(key.name)
        seconds: dict[str, float] = {}

        def add(stage: str, taken: float) -> None:
            seconds[stage] = seconds.get(stage, 0.0) + taken

        try:
            answers = model.answer_batch(payloads, key.heads, on_stage=add)
        except Exception as error:
            if len(payloads) == 1:
                return [error]
            log.info("a batch of %d is answered one by one: %s", len(payloads), error)
            return [self._answer_batch(key, [payload])[0] for payload in payloads]
        return [
            Answered(
                info=self._library.infos[key.name],
                answers=answer,
                seconds=seconds,
                batch_size=len(payloads),
                is_first=number == 0,
                num_loaded=self._library.num_loaded,
            )
            for number, answer in enumerate(answers)
        ]


def _check_size(what: str, size: Size, most: int) -> None:
    if size[0] * size[1] > most:
        raise Refusal(
            413,
            "too large",
            f"{what} of {size[0]}x{size[1]} has more than the {most:,} pixels that are taken here",
        )
