"""The findings of an evaluation: what is logged of it, and what files hold."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

from ladon.analysis import Analysed

logger = logging.getLogger(__name__)


@dataclass
class Evaluation:
    """The findings of an evaluation.

    Attributes:
        metrics: metric values by name.
        lines: the published result lines.
        num_images: images evaluated, each once.
        seconds: wall time, shared by models that are evaluated together.
        loading_seconds: the part of it in which nothing was there to do for lack of data.
        network_seconds: time inside the model's own passes, coding included; None on a GPU, where
            several batches are under way and a pass only asks for work that is done later.
        data_size_kb: published data size in KiB, mean, std and n; None where nothing was coded.
        payload_bytes: the payloads' own bytes, mean, std and n.
        part_bytes: the same of each part of the payload, where it has several.
        analysed: what was found of each class, and the worst images, in the main process; None
            unless it was asked for.
        payload_sha256: of the payloads' SHA-256s in the order of the data; None if none was made.
        predictions: what was found in each image, with its index, in the order of the data; empty
            unless it was asked for.
        beta: the rate that the model was evaluated at, where it has several.
        by_rate: the findings at each of several rates, of which this is the first.
    """

    metrics: dict[str, Any]
    lines: list[str]
    num_images: int
    seconds: float
    data_size_kb: dict[str, float] | None = None
    payload_bytes: dict[str, float] | None = None
    part_bytes: dict[str, dict[str, float]] | None = None
    payload_sha256: str | None = None
    loading_seconds: float = 0.0
    network_seconds: float | None = 0.0
    sizes: list[tuple[int, int, float]] = field(default_factory=list)
    predictions: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    analysed: Analysed | None = None
    beta: float | None = None
    by_rate: list[Evaluation] = field(default_factory=list, repr=False)

    def summary(self) -> dict[str, Any]:
        """Return what `metrics.json` holds of it."""
        found = {
            "beta": self.beta,
            "metrics": self.metrics,
            "data_size_kb": self.data_size_kb,
            "payload_bytes": self.payload_bytes,
            "part_bytes": self.part_bytes,
            "payload_sha256": self.payload_sha256,
            "num_images": self.num_images,
            "wall_time_s": round(self.seconds, 3),
            "loading_s": round(self.loading_seconds, 3),
            "network_s": None if self.network_seconds is None else round(self.network_seconds, 3),
            "images_per_s": round(self.num_images / self.seconds, 3) if self.seconds else None,
            "rates": [one.summary() for one in self.by_rate if one is not self] or None,
        }
        return {key: value for key, value in found.items() if value is not None}

    def record(self) -> dict[str, Any]:
        """Return what an epoch's line holds of a validation."""
        found: dict[str, Any] = {"val": self.metrics, "val_seconds": round(self.seconds, 3)}
        if self.payload_bytes is not None:
            found["val_payload_bytes"] = self.payload_bytes["mean"]
        return found

    def log(self) -> None:
        """Log the published result lines, and the payloads' own bytes; of each rate."""
        if self.beta is not None:
            logger.info("[Rate: β %g]", self.beta)
        for line in self.lines:
            logger.info(line)
        if self.data_size_kb is not None and self.payload_bytes is not None:
            kib, payload = self.data_size_kb, self.payload_bytes
            logger.info(
                "Bottleneck size [KB]: mean %s std %s for %s samples",
                kib["mean"],
                kib["std"],
                kib["n"],
            )
            logger.info("Payload [bytes]: mean %s std %s", payload["mean"], payload["std"])
            logger.info(
                "That is %.1f ± %.1f bytes of payload, %.3f ± %.3f KB as published, an image",
                payload["mean"],
                payload["std"],
                kib["mean"],
                kib["std"],
            )
        if self.part_bytes is not None:
            parts = (f"{part} {found['mean']:.1f}" for part, found in self.part_bytes.items())
            logger.info("Of the payload's bytes an image: %s", ", ".join(parts))
        for other in self.by_rate:
            if other is not self:
                other.log()
