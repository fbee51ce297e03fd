"""Work that overlaps: batches under way at once, and how long was waited for them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch

T = TypeVar("T")


def run_ahead(function: Callable[[T], Any], items: Iterable[T], ahead: int) -> Iterator[Any]:
    """Applies a function to items, several of them under way at once; results come in order.

    Args:
        function: called in threads of its own if ``ahead`` is more than 1.
        items: taken from in this thread, never more than ``ahead`` before the oldest is done.
        ahead: items under way at once; with 1 nothing overlaps and no thread is started.

    Yields:
        The function's results.
    """
    if ahead == 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(ahead, thread_name_prefix="ladon-ahead") as pool:
        under_way: deque = deque()
        for item in items:
            under_way.append(pool.submit(function, item))
            if len(under_way) == ahead:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()


def taken_ahead(items: Iterable[T]) -> Iterator[T]:
    """Yields the items; a thread takes the next one while this one is worked on.

    The thread computes with one core, because the others are busy. Where it waits for a disk it
    costs nothing.

    Args:
        items: gone through in that thread alone.
    """
    iterator, end = iter(items), object()
    cores = torch.get_num_threads()
    pool = ThreadPoolExecutor(1, "ladon-taking", initializer=torch.set_num_threads, initargs=(1,))
    with pool:
        item = pool.submit(next, iterator, end).result()
        # the thread keeps its 1, but torch would also give it to threads that start later
        torch.set_num_threads(cores)
        while item is not end:
            following = pool.submit(next, iterator, end)
            yield item
            item = following.result()


class Stopwatch:
    """Adds up time.

    Attributes:
        seconds: added up so far.
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, items: Iterable[T]) -> Iterator[T]:
        """Yields the items, and measures how long each was waited for."""
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
