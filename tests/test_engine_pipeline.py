"""Batches under way: order, errors, how far ahead, and what sets the pace."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from ladon.engine.evaluate import GPU_AHEAD
from ladon.engine.pipeline import Stopwatch, pipelined_map, prefetch


@pytest.mark.parametrize("ahead", [1, 2, 3])
def test_items_run_ahead_in_order(ahead):
    taken, most, under_way, lock = [], 0, 0, threading.Lock()
    started = threading.Semaphore(0)

    def items():
        for n in range(7):
            taken.append(n)
            yield n

    def work(n):
        nonlocal most, under_way
        with lock:
            under_way += 1
            most = max(most, under_way)
        started.release()
        if ahead > 1 and n == 0:  # the first waits until the others are under way, too
            for _ in range(ahead):
                started.acquire()
        with lock:
            under_way -= 1
        return n * n

    results = []
    for result in pipelined_map(work, items(), ahead):
        results.append(result)
        assert len(taken) <= len(results) - 1 + ahead
    assert results == [n * n for n in range(7)]
    assert most <= ahead
    assert most == ahead or ahead == 3, "nothing overlapped"


def test_an_error_under_way_is_raised():
    with pytest.raises(ZeroDivisionError):
        list(pipelined_map(lambda n: 1 // n, [2, 1, 0, 3], 2))


def test_items_are_taken_ahead_in_one_thread_and_no_further_than_one():
    taken, here = [], threading.get_ident()
    cores = torch.get_num_threads()

    def items():
        for n in range(5):
            taken.append((n, threading.get_ident(), torch.get_num_threads()))
            yield n

    seen = []
    for n in prefetch(items()):
        seen.append(n)
        assert len(taken) <= n + 2
    assert seen == list(range(5))
    assert [n for n, _, _ in taken] == seen
    (thread,) = {thread for _, thread, _ in taken}
    assert thread != here
    assert {count for _, _, count in taken} == {1}
    later = []
    started_later = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    started_later.start()
    started_later.join()
    assert [torch.get_num_threads(), *later] == [cores, cores]
    assert list(prefetch([])) == []


def test_an_item_is_taken_while_the_one_before_it_is_worked_on():
    taken = threading.Event()

    def items():
        yield 0
        taken.set()
        yield 1

    ahead = prefetch(items())
    assert next(ahead) == 0
    assert taken.wait(30)
    ahead.close()


def test_an_error_of_an_item_taken_ahead_comes_in_its_turn():
    ahead = prefetch(1 // n for n in (1, 0))
    assert next(ahead) == 1
    with pytest.raises(ZeroDivisionError):
        next(ahead)
    assert not any(t.name.startswith("ladon-taking") for t in threading.enumerate())


def test_stopwatch_measures_the_waiting_alone(monkeypatch):
    clock = iter([0.0, 2.0, 10.0, 13.0, 20.0, 20.5])
    monkeypatch.setattr("ladon.engine.pipeline.time.perf_counter", lambda: next(clock))
    watch = Stopwatch()
    assert list(watch.around("ab")) == ["a", "b"]
    assert watch.seconds == 2.0 + 3.0 + 0.5


def test_every_part_of_the_machine_has_a_batch_of_its_own():
    """Loading, encoder, coder and decoder to heads meet: each works on another batch."""
    meeting, met, parts = threading.Barrier(4), [], ("loading", "encoder", "coder", "decoder")
    turns = {part: threading.Lock() for part in parts}

    def work(part, n):
        with turns[part]:  # one batch at a time, as on a GPU
            if n + parts.index(part) == 3:  # batch 3 loads while 2 is encoded, 1 coded, 0 decoded
                meeting.wait(30)
                met.append((part, n))

    def load():
        for n in range(6):
            work("loading", n)
            yield n

    def predict(n):
        for part in parts[1:]:
            work(part, n)
        return n

    # the consumer waits for batch 0: whoever takes batch 3 is not this thread
    assert list(pipelined_map(predict, prefetch(load()), GPU_AHEAD)) == list(range(6))
    assert sorted(met) == [("coder", 1), ("decoder", 0), ("encoder", 2), ("loading", 3)]


def test_nothing_is_loaded_that_nobody_waits_for():
    """Back-pressure: with a stuck network, loading stops."""
    taken, go_on = [], threading.Event()

    def load():
        for n in range(100):
            taken.append(n)
            yield n

    results = pipelined_map(lambda n: go_on.wait(30) and n, prefetch(load()), 3)
    first = threading.Thread(target=lambda: next(results))
    first.start()
    time.sleep(0.3)
    assert len(taken) <= 3 + 1
    go_on.set()
    first.join()
    assert list(results) == list(range(1, 100))


def test_threads_keep_to_their_cores_and_leave_others_theirs():
    before = torch.get_num_threads()
    inside = list(pipelined_map(lambda _: torch.get_num_threads(), range(8), 4, cores=1))
    assert inside == [1] * 8
    assert torch.get_num_threads() == before
    later = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert later == [before]
