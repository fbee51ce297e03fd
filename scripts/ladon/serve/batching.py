"""Work that comes one by one, and is done together: dynamic batching in front of one thread."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

Work = Callable[[Any, Sequence[Any]], Sequence[Any]]
"""Given a key and items of it, returns of each the result, or an exception that is its own."""


@dataclass(eq=False)
class _Job:
    item: Any
    cost: int
    arrived: float
    done: asyncio.Future


class Batcher:
    """Puts items of one key together and works on them in one thread, where nothing else runs.

    Whatever waited longest is next; a batch that is full is next before one that is not, until that
    has waited for `max_delay`. While the thread works, batches grow by themselves.

    Args:
        work: done in the thread.
        max_batch: as many items are worked on together.
        max_delay: as many seconds an item waits for others while the thread is idle.
        max_cost: of a batch's items together; one that costs more is worked on alone.
    """

    def __init__(self, work: Work, *, max_batch: int, max_delay: float, max_cost: int) -> None:
        self._work, self._max_batch = work, max_batch
        self._max_delay, self._max_cost = max_delay, max_cost
        self._groups: dict[Hashable, deque[_Job]] = {}
        self._changed = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="network")
        self._task: asyncio.Task | None = None

    async def start(self, first: Callable[[], Any]) -> Any:
        """Do something in the thread, return what it gives, and work on items from then on."""
        result = await asyncio.get_running_loop().run_in_executor(self._thread, first)
        self._task = asyncio.create_task(self._run())
        return result

    @property
    def is_alive(self) -> bool:
        """Whether items are worked on."""
        return self._task is not None and not self._task.done()

    async def submit(self, key: Hashable, item: Any, cost: int = 1) -> Any:
        """Return the result of an item; if this is cancelled before its turn, nothing is done.

        Args:
            key: of items that may be worked on together.
            item: given to the work.
            cost: counts towards `max_cost`.
        """
        loop = asyncio.get_running_loop()
        job = _Job(item, cost, loop.time(), loop.create_future())
        self._groups.setdefault(key, deque()).append(job)
        self._changed.set()
        try:
            return await job.done
        except asyncio.CancelledError:
            group = self._groups.get(key)
            if group is not None and job in group:
                group.remove(job)
                self._forget_if_empty(key)
            raise

    async def close(self) -> None:
        """Stop; what is being worked on is finished in the thread."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._changed.clear()
            key, wait = self._next(loop.time())
            if key is None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self._changed.wait()
                continue
            jobs = self._take(key)
            items = [job.item for job in jobs]
            outcomes = await loop.run_in_executor(self._thread, self._safely, key, items)
            for job, outcome in zip(jobs, outcomes, strict=True):
                if job.done.done():  # its sender has gone
                    continue
                if isinstance(outcome, Exception):
                    job.done.set_exception(outcome)
                else:
                    job.done.set_result(outcome)

    def _safely(self, key: Hashable, items: Sequence[Any]) -> Sequence[Any]:
        try:
            return self._work(key, items)
        except Exception as error:  # the items' senders are told; the next batch is another matter
            return [error] * len(items)

    def _next(self, now: float) -> tuple[Hashable | None, float | None]:
        """Return the key whose turn it is; if there is none, how long to wait (None: for items)."""
        if not self._groups:
            return None, None
        oldest = min(self._groups, key=lambda key: self._groups[key][0].arrived)
        wait = self._groups[oldest][0].arrived + self._max_delay - now
        if wait <= 0:
            return oldest, None
        return next(filter(self._is_full, self._groups), None), wait

    def _is_full(self, key: Hashable) -> bool:
        group = self._groups[key]
        return len(group) >= self._max_batch or sum(job.cost for job in group) >= self._max_cost

    def _take(self, key: Hashable) -> list[_Job]:
        group, cost, jobs = self._groups[key], 0, list[_Job]()
        while group and len(jobs) < self._max_batch:
            cost += group[0].cost
            if jobs and cost > self._max_cost:
                break
            jobs.append(group.popleft())
        self._forget_if_empty(key)
        return jobs

    def _forget_if_empty(self, key: Hashable) -> None:
        if not self._groups[key]:
            del self._groups[key]
