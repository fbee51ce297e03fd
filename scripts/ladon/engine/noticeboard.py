"""What the processes of a distributed run tell each other: that they live, and why they fail.

They do so through the store at which they met. Who fails leaves its reason there before its
connections break, so that those which wait for it can say more than that a connection was closed.
Who was killed or stopped can leave nothing: each process counts up a number there, and one whose
number stands still for `silence_limit` ends the run. It is counted by a thread, so that a process
which computes, loads or waits for its disk for long is not taken for one that hangs. Only a call
that keeps Python's lock for all of that time would be (reading a JSON file of some gigabytes at
once), and a process that a debugger has stopped: LADON_RANK_TIMEOUT gives them longer.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch.distributed as dist

from ladon.engine.failures import connection_reason
from ladon.errors import LadonError, UsageError, report
from ladon.logs import add_log_file

# how long a failed process waits for the others to have read why: rank 0 may take the store along
HEARD_SECONDS = 5.0
# how long a process may go on after another one failed, before it is ended whatever it waits for
GRACE_SECONDS = 10.0
# how long processes whose connections broke wait for each other to say that they are still there
ANSWER_SECONDS = 5.0
# how long a number may stand still; with the grace, a process that was stopped ends the others
# within a minute
SILENCE_SECONDS = 40.0
_POLL_SECONDS = 0.5
_FAILED = "failed"
_ADVICE = "look at its output and its machine, then add --resume to go on"


def silence_limit() -> float:
    """Return how many seconds a process may be silent: LADON_RANK_TIMEOUT, 0 for any number.

    Raises:
        UsageError: it is no number of seconds.
    """
    text = os.environ.get("LADON_RANK_TIMEOUT", "")
    try:
        seconds = float(text or SILENCE_SECONDS)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise UsageError(
            f"LADON_RANK_TIMEOUT={text}: must be a number of seconds, 0 to wait without end for a "
            "process that does not answer"
        )
    return seconds


@dataclass(frozen=True)
class Failure:
    """The first failure among the processes.

    Attributes:
        rank: whose it is.
        text: the reason that it gave; where others found it gone, a whole sentence.
        is_found: it was found gone.
    """

    rank: int
    text: str
    is_found: bool = False

    def __str__(self) -> str:
        return self.text if self.is_found else f"rank {self.rank} failed: {self.text}"


_STORE_GONE = Failure(
    0,
    "rank 0, where the processes met, is gone (it or its torchrun was killed): " + _ADVICE,
    is_found=True,
)


class _Standstill:
    """How long a number has stood still, in time in which this process was awake to see it."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._number, self._seconds, self._looked = -1, 0.0, time.monotonic()

    def lasts(self, number: int) -> bool:
        """Look at the number; return whether it has stood still for too long."""
        now = time.monotonic()
        # more has passed if this process itself was stopped or very busy: nobody looked
        passed, self._looked = min(now - self._looked, 2 * _POLL_SECONDS), now
        self._seconds = self._seconds + passed if number == self._number else 0.0
        self._number = number
        return 0 < self._limit <= self._seconds


class Noticeboard:
    """Where a process shows that it lives, and reads and says who failed.

    Two threads serve it, so that a process ends soon after another one's failure even while it
    waits for its device: one talks to the store, the other sees that it is answered.

    Attributes:
        log_file: the run's log, to which the main process writes; rank 1 says there what became of
            it if it cannot do so itself.

    Args:
        store: where the processes met.
        rank: number of this process.
        size: number of processes.
        silence: seconds after which a silent process is given up; 0: never.
    """

    log_file: Path | None = None

    def __init__(self, store: Any, rank: int, size: int, silence: float = SILENCE_SECONDS) -> None:
        self._rank, self._others = rank, [r for r in range(size) if r != rank]
        # one is looked at by one: all are, and hundreds do not ask for hundreds each
        self._next = (rank + 1) % size
        self._silence = silence
        self._store = dist.PrefixStore("ladon", store)
        self._failure: Failure | None = None
        self._lock = threading.Lock()
        self._left = threading.Event()
        self._turns = 0
        # a client of its own: in another thread's, a blocking call would keep this one waiting
        own = dist.PrefixStore("ladon", store.clone()) if hasattr(store, "clone") else self._store
        self._threads = [
            threading.Thread(target=self._talk, args=(own,), name="ladon-talk", daemon=True),
            threading.Thread(target=self._watch, name="ladon-failures", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def tell(self, text: str) -> None:
        """Leave why this process failed, unless another one failed before, and let them read."""
        with self._lock:
            if self._failure is None:
                self._failure = Failure(self._rank, text)
        # one that was found gone may be: it is not waited for as long as the others
        gone = {self._failure.rank} if self._failure.is_found else set()
        try:
            _post(self._store, self._failure)
            self._wait_for("heard", HEARD_SECONDS, gone)
            self._wait_for("heard", 4 * _POLL_SECONDS)
        except RuntimeError:  # who would read it is gone
            return

    def explain(self, error: BaseException) -> LadonError:
        """Return which process it was that an operation failed for, and why if it has said so."""
        reason = connection_reason(error)
        found = self._failure or self._find(reason)
        if found is None:
            return LadonError(
                f"the connection between the processes broke ({reason}): look at the network, then "
                "add --resume to go on"
            )
        return self._hear(found)

    def close(self) -> None:
        """Stop looking: this process leaves."""
        self._left.set()
        for thread in self._threads:
            thread.join(timeout=1.0)

    def _find(self, reason: str) -> Failure | None:
        """Find out who is gone; None if all are there."""
        try:
            if (posted := _read(self._store)) is not None:
                return posted
            self._store.set(f"there/{self._rank}", "")
            before = self._numbers()
            missing = self._wait_for("there", ANSWER_SECONDS)
            if (posted := _read(self._store)) is not None or not missing:
                return posted
            now = self._numbers()
            # one that is busy has noticed nothing yet: it is not there, but it lives
            ranks = [rank for rank in missing if now[rank] == before[rank]] or missing
            names = ", ".join(map(str, ranks))
            text = f"rank {names} did not answer ({reason}): it hangs or was killed; {_ADVICE}"
            return _post(self._store, Failure(ranks[0], text, is_found=True))
        except RuntimeError:
            return self._failure or _STORE_GONE

    def _numbers(self) -> dict[int, int]:
        return {rank: self._store.add(f"lives/{rank}", 0) for rank in self._others}

    def _wait_for(self, key: str, seconds: float, gone: Collection[int] = frozenset()) -> list[int]:
        """Wait until the others, but for those gone, have set a key; return those that did not."""
        end = time.monotonic() + seconds
        ranks = [rank for rank in self._others if rank not in gone]
        while True:
            missing = [rank for rank in ranks if not self._store.check([f"{key}/{rank}"])]
            if not missing or time.monotonic() > end:
                return missing
            time.sleep(0.05)

    def _hear(self, found: Failure) -> LadonError:
        """Take note of another one's failure, and say it at once, before the run's log ends."""
        with self._lock:
            is_new = self._failure is None
            failure = self._failure = self._failure or found
            error = LadonError(str(failure))
            if is_new:
                self._speak_for_main(failure)
                with contextlib.suppress(Exception):  # whatever a log may do: the run must end
                    report(error, self._rank)
            error.is_said = True
        return error

    def _speak_for_main(self, failure: Failure) -> None:
        is_deputy = self._rank == 1 and failure.rank == 0 and failure.is_found
        if is_deputy and self.log_file is not None and self.log_file.is_file():
            with contextlib.suppress(LadonError):
                add_log_file(self.log_file)

    def _talk(self, store: Any) -> None:
        silence = _Standstill(self._silence)
        while not self._left.wait(_POLL_SECONDS):
            try:
                store.add(f"lives/{self._rank}", 1)
                found = _read(store)
                if found is None and silence.lasts(store.add(f"lives/{self._next}", 0)):
                    found = _post(store, self._silent(self._next, f"rank {self._next}"))
                if found is not None:
                    self._hear(found)
                    store.set(f"heard/{self._rank}", "")
            except RuntimeError:
                self._hear(_STORE_GONE)
                return
            self._turns += 1

    def _watch(self) -> None:
        silence = _Standstill(self._silence)
        while self._failure is None:
            if self._left.wait(_POLL_SECONDS):
                return
            if silence.lasts(self._turns):  # a store that is stopped answers no call, ever
                self._hear(self._silent(0, "rank 0, where the processes met,"))
        if not self._left.wait(GRACE_SECONDS):
            _end()

    def _silent(self, rank: int, name: str) -> Failure:
        text = (
            f"{name} has not answered for {self._silence:g} s: it was stopped or killed, or its "
            f"machine hangs (LADON_RANK_TIMEOUT sets the seconds, 0 waits without end); {_ADVICE}"
        )
        return Failure(rank, text, is_found=True)


def _post(store: Any, failure: Failure) -> Failure:
    """Leave a failure, unless there was one before; return the first."""
    store.compare_set(_FAILED, "", json.dumps(list(vars(failure).values())))
    return _read(store) or failure


def _read(store: Any) -> Failure | None:
    return Failure(*json.loads(store.get(_FAILED))) if store.check([_FAILED]) else None


def _end() -> NoReturn:
    """End a process that waits for what will not come; nothing else could."""
    for handler in logging.getLogger().handlers:
        handler.flush()
    os._exit(1)
