"""Noticeboards of several processes, here in one: what they find out, and whom they name."""

from __future__ import annotations

import logging
import threading
import time

import pytest
import torch.distributed as dist

from ladon.engine import noticeboard
from ladon.engine.noticeboard import Noticeboard, _Standstill

BROKEN = RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1")


@pytest.fixture
def ended(monkeypatch):
    """Set when a board would have ended its process; each does so once."""
    event = threading.Event()
    monkeypatch.setattr(noticeboard, "GRACE_SECONDS", 0.05)
    monkeypatch.setattr(noticeboard, "ANSWER_SECONDS", 0.6)
    monkeypatch.setattr(noticeboard, "HEARD_SECONDS", 5.0)
    monkeypatch.setattr(noticeboard, "_POLL_SECONDS", 0.02)
    monkeypatch.setattr(noticeboard, "_end", event.set)
    return event


@pytest.fixture
def boards(ended):
    """Make boards of one store, which are closed in the end."""
    store, made = dist.HashStore(), []

    def make(ranks, size, silence=0.0):
        made.extend(Noticeboard(store, rank, size, silence) for rank in ranks)
        return made[-len(ranks) :]

    yield make
    for board in made:
        board.close()


@pytest.fixture
def said(caplog):
    """The lines that were logged; waits until there are as many as asked for."""
    handler, lines, more = logging.Handler(), [], threading.Condition()

    def emit(record):
        with more:
            lines.append(record.getMessage())
            more.notify_all()

    handler.emit = emit
    logger = logging.getLogger("ladon.cli")
    logger.addHandler(handler)

    def wait(count):
        with more:
            assert more.wait_for(lambda: len(lines) >= count, 30), lines
            return sorted(lines)

    yield wait
    logger.removeHandler(handler)


@pytest.fixture(autouse=True)
def _logging_is_set_up(monkeypatch):
    monkeypatch.setattr("ladon.logs._handlers", [logging.NullHandler()])


def test_a_failure_is_said_by_the_others_at_once_and_once(boards, said, ended):
    first, second, third = boards(range(3), 3)
    second.tell("image 7.png: cannot be read")  # returns when the others have heard it
    reason = "rank 1 failed: image 7.png: cannot be read"
    assert said(2) == ["rank 1 failed: image 7.png: cannot be read", f"rank 2: {reason}"]
    third.tell("a second failure, which follows from the first")
    for board in (first, third):
        error = board.explain(BROKEN)
        assert str(error) == reason
        assert error.is_said
    assert len(said(2)) == 2
    assert ended.wait(30)


def test_a_silent_process_is_named_by_the_others(boards, said, ended):
    boards([0, 2], 3, silence=0.3)  # rank 1 has come, too, but nobody counts for it
    first, second = said(2)
    assert first.startswith("rank 1 has not answered for 0.3 s: it was stopped or killed")
    assert "LADON_RANK_TIMEOUT" in first
    assert second == f"rank 2: {first}"
    assert ended.wait(30)


def test_who_computes_for_long_is_not_silent(boards, ended):
    """The main threads do nothing here for twenty times the limit."""
    boards(range(3), 3, silence=0.2)
    assert not ended.wait(4)


def test_without_a_limit_nobody_is_given_up(boards, ended):
    boards([0, 2], 3, silence=0)
    assert not ended.wait(1)


def test_who_is_busy_elsewhere_is_not_named_for_one_that_is_gone(boards, said):
    """Rank 1 was killed; rank 2 validates, and has not noticed anything."""
    first, _ = boards([0, 2], 3)
    error = first.explain(BROKEN)
    assert str(error).startswith("rank 1 did not answer (Connection closed by peer [127.0.0.1]:1)")
    assert said(2)[1] == f"rank 2: {error}"


def test_who_lives_but_does_not_come_is_named(boards):
    """A collective operation timed out: rank 2 is not in it."""
    first, second, _ = boards(range(3), 3)
    found = {}
    thread = threading.Thread(target=lambda: found.update(second=second.explain(BROKEN)))
    thread.start()
    found["first"] = first.explain(BROKEN)
    thread.join()
    assert str(found["first"]) == str(found["second"])
    assert str(found["first"]).startswith("rank 2 did not answer (Connection closed")


def test_a_network_that_breaks_between_processes_that_live_names_none(boards):
    first, second = boards(range(2), 2)
    found = {}
    thread = threading.Thread(target=lambda: found.update(second=second.explain(BROKEN)))
    thread.start()
    found["first"] = first.explain(BROKEN)
    thread.join()
    for error in found.values():
        assert str(error).startswith("the connection between the processes broke (Connection")


def test_a_store_that_does_not_answer_is_noticed(monkeypatch, said, ended):
    """Its process was stopped: no call returns, whatever its time-out."""
    store, stopped, board = dist.HashStore(), threading.Event(), None
    add = dist.PrefixStore.add

    def hang(self, *args):
        stopped.wait(60)
        return add(self, *args)

    monkeypatch.setattr(dist.PrefixStore, "add", hang)
    board = Noticeboard(store, 1, 2, 0.3)
    try:
        (line,) = said(1)
        assert line.startswith("rank 1: rank 0, where the processes met, has not answered for 0.3")
        assert ended.wait(30)
    finally:
        stopped.set()
        board.close()


@pytest.mark.parametrize(("rank", "writes"), [(1, True), (2, False)])
def test_rank_1_says_in_the_log_what_became_of_the_first(boards, said, tmp_path, rank, writes):
    log = tmp_path / "run.txt"
    log.write_text("")
    (board,) = boards([rank], 3)
    board.log_file = log
    board._hear(board._silent(0, "rank 0"))
    assert ("rank 0 has not answered" in log.read_text()) == writes
    board.log_file.unlink()
    said(1)


def test_a_log_of_another_machine_is_not_begun(boards, tmp_path):
    (board,) = boards([1], 3)
    board.log_file = tmp_path / "elsewhere.txt"
    board._hear(board._silent(0, "rank 0"))
    assert not board.log_file.exists()


def test_time_in_which_nobody_looked_does_not_count(monkeypatch):
    """This process was stopped, or its machine slept, and so may the other have been."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    silence = _Standstill(40)
    assert not silence.lasts(7)
    now[0] = 3600.0
    assert not silence.lasts(7), "an hour asleep"
    looks = 0
    while not silence.lasts(7):
        looks, now[0] = looks + 1, now[0] + noticeboard._POLL_SECONDS
    assert looks == pytest.approx(40 / noticeboard._POLL_SECONDS, abs=3)
    assert not silence.lasts(8), "it goes on"
