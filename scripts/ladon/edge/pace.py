"""The rate of each image: as it is asked for, or as the time until its answer allows."""

from __future__ import annotations

import logging
import time

from ladon.codec.container import Payload
from ladon.codec.rates import BudgetError
from ladon.edge.encoder import EdgeEncoder, OnStage
from ladon.edge.link import Link
from ladon.edge.manifest import Manifest
from ladon.errors import UsageError
from ladon.images import ImageLike

logger = logging.getLogger(__name__)

_WEIGHT = 0.3


class Pace:
    """Chooses rates.

    Args:
        manifest: of the encoder.
        rate: β of all images; None: the middle one.
        max_bytes: of each payload, instead.
        deadline_ms: until each answer, from the start of its image, instead: bytes are what is left
            of it, less what the server works, on the link as it was so far. The first image, before
            anything is known, takes the coarsest rate.

    Raises:
        UsageError: the encoder has one rate, and another one or a budget is asked for.
    """

    def __init__(
        self,
        manifest: Manifest,
        rate: float | None = None,
        max_bytes: int | None = None,
        deadline_ms: float | None = None,
    ) -> None:
        if manifest.rates is None and (rate or max_bytes or deadline_ms):
            raise UsageError(
                f"{manifest.name} has one rate: no other can be asked for, no budget, no deadline"
            )
        self._rates = manifest.rates
        self._rate, self._max_bytes = rate, max_bytes
        self._deadline = None if deadline_ms is None else deadline_ms / 1e3
        self._link, self._server, self._encoding = Link(_WEIGHT), 0.0, 0.0

    def encode(self, encoder: EdgeEncoder, image: ImageLike, on_stage: OnStage) -> Payload:
        """Encode an image.

        Raises:
            DataError: as `EdgeEncoder.encode` does.
            UsageError: the encoder has no such rate.
        """
        if self._deadline is None or self._rates is None:
            rate, most = self._rate, self._max_bytes
            return encoder.encode(image, rate=rate, max_bytes=most, on_stage=on_stage)
        start = time.perf_counter()
        left = self._deadline - self._encoding - self._server
        budget = self._link.budget(left)
        fitted = encoder.fit(image)
        on_stage("fit", time.perf_counter() - start)
        payload = None
        if budget is not None:
            try:
                payload = encoder.encode_fitted(fitted, max_bytes=budget, on_stage=on_stage)
            except BudgetError as error:
                logger.info("%s; it is sent all the same", error)
        if payload is None:
            coarsest = self._rates.high
            payload = encoder.encode_fitted(fitted, rate=coarsest, on_stage=on_stage)
        self._encoding = time.perf_counter() - start
        return payload

    def note(self, num_bytes: int, answered: float, server: float) -> None:
        """Take in how long an answer took.

        Args:
            num_bytes: of the payload.
            answered: seconds from sending it to having the answer.
            server: seconds of it that the server worked.
        """
        self._link.note(num_bytes, answered - server)
        self._server = (1 - _WEIGHT) * self._server + _WEIGHT * server if self._server else server
