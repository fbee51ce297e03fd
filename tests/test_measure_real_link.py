"""Bytes through real links: paced sockets, and network namespaces where they may be had."""

from __future__ import annotations

import os
import shutil
import subprocess
import time

import pytest

from ladon.errors import LadonError, UsageError
from ladon.measure import real_link
from ladon.measure.real_link import paced_socket, veth


def test_a_server_half_that_fails_is_heard_of():
    def serve(parts):
        raise ValueError("no such model")

    with pytest.raises(ValueError, match="no such model"), paced_socket(1e9, serve) as connection:
        connection.ask([b"payload"])


def test_messages_arrive_whole_and_in_order():
    seen = []

    def serve(parts):
        seen.append(parts)
        return b"%d" % len(parts)

    with paced_socket(1e9, serve) as connection:
        assert connection.round_trip(1) >= 0
        assert connection.ask([b"", b"a" * 100_000, b"b"]) == b"3"
    assert seen == [[b"", b"a" * 100_000, b"b"]]


def test_a_paced_sender_keeps_to_its_rate(monkeypatch):
    now, slept = [0.0], []

    def sleep(seconds):
        slept.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(real_link.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(real_link.time, "sleep", sleep)
    with paced_socket(80_000, lambda parts: b"") as connection:
        connection.ask([b"x" * 995])  # and 5 bytes around it
    assert sum(slept) == pytest.approx(0.1)
    assert max(slept) == pytest.approx(0.005)


def test_without_root_or_tools_veth_says_so(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(UsageError, match=r"--link veth: .* root's: .* or take --link socket"):
        real_link.check_veth()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda tool: None if tool == "tc" else tool)
    with pytest.raises(UsageError, match=r"--link veth: there is no 'tc' \(iproute2\)"):
        real_link.check_veth()


def test_what_the_kernel_refuses_is_told_in_one_line(monkeypatch):
    def run(command, **_):
        return subprocess.CompletedProcess(command, 2, "", "RTNETLINK answers:\nnot permitted\n")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(
        UsageError, match=r"'ip link add' failed \(RTNETLINK answers: not permitted\)"
    ):
        real_link._run("ip", "link", "add", "x")


def test_a_veth_slows_what_goes_through_it_and_is_gone_afterwards():
    try:
        real_link.check_veth()
        with veth(100_000, lambda parts: b"ok") as connection:
            start = time.perf_counter()
            assert connection.ask([b"x" * 2500]) == b"ok"
            seconds = time.perf_counter() - start
    except UsageError as error:
        pytest.skip(f"no namespaces here: {error}")
    # 0.2 s at 100 kbit/s, less the first packet of 576 bytes, which the bucket lets through
    assert seconds > 8 * (2500 - 640) / 100_000
    left = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    assert f"ladon-{os.getpid()}" not in left.stdout


def test_a_broken_link_is_failed_work():
    with paced_socket(1e9, lambda parts: b"") as connection:
        connection._end.close()
        with pytest.raises(LadonError, match="the link to the server half broke"):
            connection.ask([b"x"])
