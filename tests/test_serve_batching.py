"""Dynamic batching: what is worked on together, and when."""

from __future__ import annotations

import asyncio
import threading

import pytest

from ladon.serve.batching import Batcher

LONG = 60.0
"""Seconds that no test waits."""


class Works:
    """Work that notes its batches, and waits while it may not go on."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, list]] = []
        self.may_go, self.is_going = threading.Event(), asyncio.Event()
        self.may_go.set()
        self.loop = asyncio.get_running_loop()

    def __call__(self, key, items):
        self.batches.append((key, list(items)))
        self.loop.call_soon_threadsafe(self.is_going.set)
        assert self.may_go.wait(30)
        if key == "bad":
            raise OSError("all of it")
        return [ValueError(item) if item < 0 else 10 * item for item in items]


def with_batcher(test, **settings):
    """Run a test with a batcher and its work."""

    async def run():
        works = Works()
        values = {"max_batch": 4, "max_delay": LONG, "max_cost": 100, **settings}
        batcher = Batcher(works, **values)
        await batcher.start(lambda: None)
        try:
            async with asyncio.timeout(30):
                await test(batcher, works)
        finally:
            works.may_go.set()
            await batcher.close()

    asyncio.run(run())


async def held(batcher, works):
    """Let the thread work on something until `may_go`; returns its task."""
    works.may_go.clear()
    task = asyncio.create_task(batcher.submit("held", 1, cost=100))
    await works.is_going.wait()
    return task


async def tasks_of(batcher, *items):
    tasks = [asyncio.create_task(batcher.submit(*item)) for item in items]
    await asyncio.sleep(0)  # each is in the queue after its first step
    return tasks


def test_a_full_batch_does_not_wait():
    async def test(batcher, works):
        results = await asyncio.gather(*(batcher.submit("a", n) for n in range(4)))
        assert results == [0, 10, 20, 30]
        assert works.batches == [("a", [0, 1, 2, 3])]

    with_batcher(test)


def test_a_batch_that_is_not_full_is_worked_on_after_the_delay():
    async def test(batcher, works):
        assert await asyncio.gather(*(batcher.submit("a", n) for n in range(3))) == [0, 10, 20]
        assert works.batches == [("a", [0, 1, 2])]

    with_batcher(test, max_delay=0.01)


def test_keys_are_not_mixed_and_the_one_that_waits_longest_is_next():
    async def test(batcher, works):
        first = await held(batcher, works)
        rest = await tasks_of(batcher, ("a", 1), ("b", 2), ("a", 3), ("b", 4))
        works.may_go.set()
        await asyncio.gather(first, *rest)
        assert works.batches[1:] == [("a", [1, 3]), ("b", [2, 4])]

    with_batcher(test, max_delay=0.0)


def test_a_full_batch_goes_before_one_that_still_waits():
    async def test(batcher, works):
        (waits,) = await tasks_of(batcher, ("a", 1))
        assert await asyncio.gather(*(batcher.submit("b", n) for n in range(4)))
        assert works.batches == [("b", [0, 1, 2, 3])]
        assert not waits.done()
        waits.cancel()

    with_batcher(test)


def test_costs_are_bounded_and_a_costly_item_is_alone():
    async def test(batcher, works):
        first = await held(batcher, works)
        rest = await tasks_of(batcher, ("a", 1, 60), ("a", 2, 40), ("a", 3, 1), ("a", 4, 500))
        works.may_go.set()
        await asyncio.gather(first, *rest)
        assert works.batches[1:] == [("a", [1, 2]), ("a", [3]), ("a", [4])]

    with_batcher(test, max_delay=0.0)


def test_an_item_has_its_own_error():
    async def test(batcher, works):
        good, bad = await asyncio.gather(
            batcher.submit("a", 1), batcher.submit("a", -1), return_exceptions=True
        )
        assert good == 10
        assert isinstance(bad, ValueError)
        with pytest.raises(OSError, match="all of it"):
            await batcher.submit("bad", 1)
        assert await batcher.submit("a", 2) == 20
        assert batcher.is_alive

    with_batcher(test, max_delay=0.0)


def test_nothing_is_done_for_whom_has_gone():
    async def test(batcher, works):
        first = await held(batcher, works)
        gone, stays, alone = await tasks_of(batcher, ("a", 1), ("a", 2), ("b", 3))
        gone.cancel()
        alone.cancel()
        works.may_go.set()
        assert await asyncio.gather(first, stays) == [10, 20]
        assert works.batches[1:] == [("a", [2])]
        assert batcher.is_alive

    with_batcher(test, max_delay=0.0)


def test_whoever_leaves_while_it_is_worked_on_spoils_nothing():
    async def test(batcher, works):
        first = await held(batcher, works)
        first.cancel()
        works.may_go.set()
        assert await batcher.submit("a", 2) == 20

    with_batcher(test, max_delay=0.0)


def test_a_first_task_that_fails_is_told():
    async def run():
        batcher = Batcher(Works(), max_batch=1, max_delay=0, max_cost=1)
        with pytest.raises(ZeroDivisionError):
            await batcher.start(lambda: 1 / 0)
        assert not batcher.is_alive
        await batcher.close()

    asyncio.run(run())
