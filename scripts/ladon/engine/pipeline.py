"""Work that overlaps: batches under way at once, and how long was waited for them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

T = TypeVar("T")


def pipelined_map(
    function: Callable[[T], Any], items: Iterable[T], ahead: int, *, cores: int | None = None
) -> Iterator[Any]:
    """Apply a function to items, several of them under way at once; results come in order.

    What the function does for an item may be made of stages that each use another part of the
    machine (GPU, coder, copies). With as many items under way as there are stages, each part
    always has the next item to work on, and the slowest sets the pace.

    Args:
        function: called in threads of its own if `ahead` is more than 1.
        items: taken from in this thread, never more than `ahead` before the oldest is done.
        ahead: items under way at once; with 1 nothing overlaps and no thread is started.
        cores: that an operation may take in each of the threads; None for torch's own choice.

    Yields:
        The function's results.
    """
    if ahead == 1:
        yield from map(function, items)
        return
    with _threads(ahead, "ladon-ahead", cores) as submit:
        under_way: deque = deque()
        for item in items:
            under_way.append(submit(function, item))
            del item  # it lives as long as it is worked on
            if len(under_way) == ahead:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()


def prefetch(items: Iterable[T]) -> Iterator[T]:
    """Yield the items; a thread takes the next one while this one is worked on.

    The thread computes with one core, because the others are busy. Where it waits for a disk it
    costs nothing.

    Args:
        items: gone through in that thread alone.
    """
    iterator, end = iter(items), object()
    with _threads(1, "ladon-taking", 1) as submit:
        following = submit(next, iterator, end)
        while (item := following.result()) is not end:
            following = submit(next, iterator, end)
            yield item


@contextmanager
def _threads(number: int, name: str, cores: int | None) -> Iterator[Callable[..., Future]]:
    """Yield what submits calls to threads in which an operation takes so many cores."""
    with ThreadPoolExecutor(number, name) as pool:
        if cores is not None:
            everyones, all_there = torch.get_num_threads(), threading.Barrier(number)

            def limit() -> None:
                torch.set_num_threads(cores)
                all_there.wait()

            for started in [pool.submit(limit) for _ in range(number)]:
                started.result()
            # the threads keep their number, but torch would also give it to those that start later
            torch.set_num_threads(everyones)
        yield pool.submit


class Stopwatch:
    """Adds up time.

    Attributes:
        seconds: added up so far.
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, items: Iterable[T]) -> Iterator[T]:
        """Yield the items, and measure how long each was waited for."""
        iterator = iter(items)
        while True:
            start = time.perf_counter()
            try:
                item = next(iterator)
            except StopIteration:
                return
            finally:
                self.seconds += time.perf_counter() - start
            yield item
