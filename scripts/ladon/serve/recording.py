"""What a server tells of itself: metrics for Prometheus, and a line of JSON for each request."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from ladon.serve.engine import Answered, Encoded

log = logging.getLogger("ladon.serve.requests")
_FIELDS = "ladon_fields"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_BATCHES = (1, 2, 4, 8, 16, 32, 64)
_SIZES = tuple(1 << power for power in range(6, 24, 2))


class Record:
    """One request, as it is written down when it is over.

    Attributes:
        fields: of its line in the log.
        reason: of a refusal, in one of few words; "" if it was not refused.
    """

    def __init__(self, client: str, method: str, path: str) -> None:
        self.start = time.perf_counter()
        self.fields: dict[str, Any] = {"client": client, "method": method, "path": path[:200]}
        self.reason = ""

    def answered(self, answered: Answered) -> None:
        """Note how a payload was answered."""
        self.fields.update(
            model=answered.info.name,
            heads=list(answered.answers),
            batch_size=answered.batch_size,
            worker=answered.worker,
            **{f"{stage}_seconds": round(s, 6) for stage, s in answered.seconds.items()},
        )


class Metrics:
    """The metrics of one server."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self.requests = Counter(
            "ladon_requests", "Requests that are over.", ["route", "status"], registry=registry
        )
        self.seconds = Histogram(
            "ladon_request_seconds",
            "From a request's headers to its response.",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.stages = Histogram(
            "ladon_stage_seconds",
            "Of each batch by stage; 'queue': of each payload until its batch began.",
            ["stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.batches = Histogram(
            "ladon_batch_size",
            "Payloads that were answered together.",
            buckets=_BATCHES,
            registry=registry,
        )
        self.payloads = Histogram(
            "ladon_payload_bytes", "Of payloads.", buckets=_SIZES, registry=registry
        )
        self.rejections = Counter(
            "ladon_rejections", "Requests that were refused.", ["reason"], registry=registry
        )
        self.queue = Gauge(
            "ladon_queue_length",
            "Payloads that were accepted and are not answered yet.",
            registry=registry,
        )
        self.loaded = Gauge(
            "ladon_models_loaded", "Models in memory.", ["worker"], registry=registry
        )
        self.retries = Counter(
            "ladon_replica_retries",
            "Payloads that were sent to another replica after one was lost.",
            registry=registry,
        )

    def answered(self, answered: Answered) -> None:
        """Count an answer, and its batch with the first one of it."""
        self.stages.labels("queue").observe(answered.seconds.get("queue", 0.0))
        self.loaded.labels(answered.worker).set(answered.num_loaded)
        self.retries.inc(answered.tries - 1)
        if answered.is_first:
            self.batches.observe(answered.batch_size)
            for stage, seconds in answered.seconds.items():
                if stage != "queue":
                    self.stages.labels(stage).observe(seconds)

    def encoded(self, encoded: Encoded) -> None:
        """Count a picture that became a payload here."""
        for stage, seconds in encoded.seconds.items():
            self.stages.labels(stage).observe(seconds)

    def over(self, record: Record, route: str, status: int) -> None:
        """Count a request, and write its line."""
        seconds = time.perf_counter() - record.start
        self.requests.labels(route, str(status)).inc()
        self.seconds.labels(route).observe(seconds)
        if record.reason:
            self.rejections.labels(record.reason).inc()
            record.fields["reason"] = record.reason
        fields = {**record.fields, "status": status, "seconds": round(seconds, 6)}
        log.log(_level(route, status), "request", extra={_FIELDS: fields})

    def text(self) -> bytes:
        """Return all of it in Prometheus's text format."""
        return generate_latest(self.registry)


def _level(route: str, status: int) -> int:
    if status >= 500 and status != 503:
        return logging.ERROR
    # probes and scrapes come every few seconds
    return logging.INFO if route in ("infer", "picture") or status >= 400 else logging.DEBUG


class JsonFormatter(logging.Formatter):
    """Writes a line of JSON for each record."""

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {
            "time": self.formatTime(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, _FIELDS, {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)
