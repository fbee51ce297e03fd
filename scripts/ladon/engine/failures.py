"""Failures that come from elsewhere, in words: from the device, and from another process.

The processes of a distributed run tell each other through the store at which they met: who fails
leaves its reason there before its connections break, so that those which wait for it can say more
than that a connection was closed.
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
import time
from collections.abc import Sequence
from typing import Any, NoReturn

import torch
import torch.distributed as dist

from ladon.errors import DeviceError, LadonError

logger = logging.getLogger(__name__)

# what a device reports late, after the call that caused it; torch before 2.8 has no class for it
ACCELERATOR_ERRORS: tuple[type[Exception], ...] = tuple(
    getattr(torch, name) for name in ("AcceleratorError",) if hasattr(torch, name)
)
# how long a failed process waits for the others to have read why: rank 0 may take the store along
HEARD_SECONDS = 5.0
# how long a process may go on after another one failed, before it is ended whatever it waits for
GRACE_SECONDS = 10.0
# how long processes whose connections broke wait for each other to say that they are still there
ANSWER_SECONDS = 5.0
_POLL_SECONDS = 0.5
_FAILED = "failed"
# what torch says of one that is gone, up to its advice
_WORKER = re.compile(
    r"DataLoader worker \(pid(\(s\))? [^)]*\) (is killed by signal: [^.]*|exited unexpectedly)"
)


def device_failure(error: BaseException, device: torch.device, where: str = "") -> LadonError:
    """Return what a device's error means.

    Args:
        error: one of `ACCELERATOR_ERRORS`.
        device: of this process.
        where: stage and dataset, if known.
    """
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    place = f" in {where}" if where else ""
    kind = LadonError if device.type == "cpu" else DeviceError
    if "device-side assert" not in first:
        return kind(f"{device} failed{place}: {first}")
    labels = "the labels of the dataset" if where else "the dataset's labels"
    return kind(
        f"{device} failed{place}: {first}: usually a label outside the model's classes: compare "
        f"{labels} with num_classes (the device reports it late: set CUDA_LAUNCH_BLOCKING=1 to "
        "find the place)"
    )


def worker_failure(error: BaseException) -> str | None:
    """Return in one line what became of a loader's worker, None if the error is not of that."""
    seen: BaseException | None = error
    found = None
    while seen is not None:
        if isinstance(seen, RuntimeError) and (said := _WORKER.match(str(seen))):
            found = said[0]  # the first cause knows the signal
        seen = seen.__cause__ or seen.__context__
    if found is None:
        return None
    return (
        f"{found}: usually the machine's memory did not suffice; lower num_workers or batch_size, "
        "then add --resume to go on"
    )


def is_connection_error(error: BaseException) -> bool:
    """Whether an operation among processes failed: another one is gone, hangs or cannot be met."""
    return isinstance(error, getattr(dist, "DistError", ())) or (
        isinstance(error, RuntimeError) and "/gloo/" in str(error)
    )


def connection_reason(error: BaseException) -> str:
    """Return what a connection error says in its first sentence, without torch's source lines."""
    text = re.sub(r"^\[[^\]]*\]\s*", "", " ".join(str(error).split()))
    return text.split(". ")[0].rstrip(".")


class Noticeboard:
    """Messages that the processes of a distributed run leave for each other when one fails.

    A thread looks at it, so that a process ends soon after another one's failure even while it
    waits for its device.

    Args:
        store: where the processes met.
        rank: number of this process.
        size: number of processes.
    """

    def __init__(self, store: Any, rank: int, size: int) -> None:
        self._rank, self._others = rank, [r for r in range(size) if r != rank]
        self._store = dist.PrefixStore("ladon", store)
        self._heard: tuple[int, str] | None = None
        self._told = False
        self._left = threading.Event()
        # a client of its own: in another thread's, a blocking call would keep this one waiting
        own = dist.PrefixStore("ladon", store.clone()) if hasattr(store, "clone") else self._store
        self._thread = threading.Thread(
            target=self._watch, args=(own,), name="ladon-failures", daemon=True
        )
        self._thread.start()

    def tell(self, text: str) -> None:
        """Leave why this process failed, unless another one failed before, and let them read."""
        self._told = True
        try:
            self._store.compare_set(_FAILED, "", json.dumps([self._rank, text]))
            self._store.set(f"heard/{self._rank}", "")
            self._wait_for("heard", self._others, HEARD_SECONDS)
        except RuntimeError:  # who would read it is gone
            return

    def explain(self, error: BaseException) -> LadonError:
        """Return which process it was that an operation failed for, and why if it has said so."""
        reason = connection_reason(error)
        try:
            failure = self._read(self._store)
            if failure is None:
                self._store.set(f"there/{self._rank}", "")
                missing = self._wait_for("there", self._others, ANSWER_SECONDS)
                failure = self._read(self._store)
        except RuntimeError:
            failure = self._heard or (0, "")
        if failure is not None and failure[0] != self._rank:
            return _failed_elsewhere(*failure)
        if failure is None and missing:
            ranks = ", ".join(map(str, missing))
            return LadonError(
                f"rank {ranks} did not answer ({reason}): it hangs or was killed; look at its "
                "output and its machine, then add --resume to go on"
            )
        return LadonError(
            f"the connection between the processes broke ({reason}): look at the network, then "
            "add --resume to go on"
        )

    def close(self) -> None:
        """Stop looking: this process leaves."""
        self._left.set()
        self._thread.join(timeout=1.0)

    def _read(self, store: Any) -> tuple[int, str] | None:
        if not store.check([_FAILED]):
            return None
        rank, text = json.loads(store.get(_FAILED))
        return rank, text

    def _wait_for(self, key: str, ranks: Sequence[int], seconds: float) -> list[int]:
        """Wait until these ranks have set a key; return those that did not."""
        end = time.monotonic() + seconds
        while True:
            missing = [rank for rank in ranks if not self._store.check([f"{key}/{rank}"])]
            if not missing or time.monotonic() > end:
                return missing
            time.sleep(0.05)

    def _watch(self, store: Any) -> None:
        while self._heard is None:
            if self._left.wait(_POLL_SECONDS):
                return
            try:
                self._heard = self._read(store)
                if self._heard is not None:
                    store.set(f"heard/{self._rank}", "")
            except RuntimeError:
                self._heard = (0, "")
        if not self._left.wait(GRACE_SECONDS):
            self._end(self._heard)

    def _end(self, failure: tuple[int, str]) -> NoReturn:
        """End a process that waits for what will not come; nothing else could."""
        if not self._told:
            own = f"rank {self._rank}: " if self._rank else ""
            logger.error("%s%s", own, _failed_elsewhere(*failure))
        for handler in logging.getLogger().handlers:
            handler.flush()
        os._exit(1)


def _failed_elsewhere(rank: int, text: str) -> LadonError:
    if text:
        return LadonError(f"rank {rank} failed: {text}")
    return LadonError(
        f"rank {rank}, where the processes met, is gone (it or its torchrun was killed): look at "
        "its output and its machine, then add --resume to go on"
    )
