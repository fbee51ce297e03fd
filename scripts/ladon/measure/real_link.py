"""Links that bytes really go through: a paced loopback socket, or a veth between two namespaces.

Both give a `Connection`: one message of several parts goes up, the server half works, a short
answer comes down. The server is a thread of this process, and only one of the two halves works at a
time, so that neither takes the other's processor.

- `paced_socket`: the sender waits until its bytes would be through; the round trip is loopback's.
- `veth`: a pair of virtual network devices, the server's in a network namespace of its own, the
  device's end limited by the kernel (`tc … tbf`, a token bucket: of what is sent after a rest, its
  first packet is not slowed; on slow links packets are small). Root only. The kernel's TCP does the
  rest, so that its headers, windows and acknowledgements are in what is measured.

Neither delays what it lets through (`netem`, which could, is often missing): the round trip is that
of the link as it is, measured by an empty message.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from ladon.errors import LadonError, UsageError

logger = logging.getLogger(__name__)

KINDS = ("model", "socket", "veth")
Serve = Callable[[list[bytes]], bytes]
"""The server half: the parts of a message to an answer."""

_COUNT, _LENGTH = struct.Struct("<B"), struct.Struct("<I")
_TIMEOUT_S = 300.0
_SLICE_S = 0.005  # a paced sender gives so much time's bytes at once
_SLOW = 1_000_000  # bit/s
_CLONE_NEWNET = 0x40000000


class Connection:
    """The device's end.

    Args:
        end: connected to a server of this module.
        bits_per_s: pace of what is sent; None: the link limits it by itself.
    """

    def __init__(self, end: socket.socket, bits_per_s: float | None) -> None:
        self._end, self._rate = end, bits_per_s

    def ask(self, parts: Sequence[bytes]) -> bytes:
        """Send a message; return the answer.

        Raises:
            LadonError: if the other end is gone, or stays silent.
        """
        message = _COUNT.pack(len(parts)) + b"".join(_LENGTH.pack(len(p)) + p for p in parts)
        try:
            self._send(message)
            answer = _receive(self._end)
        except OSError as error:
            raise LadonError(f"the link to the server half broke: {error}") from error
        if answer is None:
            raise LadonError("the link to the server half broke: it hung up")
        return answer[0]

    def round_trip(self, repeats: int = 5) -> float:
        """Return the shortest time in seconds that an empty message takes there and back."""
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            self.ask([])
            times.append(time.perf_counter() - start)
        return min(times)

    def _send(self, message: bytes) -> None:
        if self._rate is None:
            self._end.sendall(message)
            return
        start, at_once = time.perf_counter(), max(1, int(self._rate / 8 * _SLICE_S))
        for position in range(0, len(message), at_once):
            piece = message[position : position + at_once]
            due = start + 8 * (position + len(piece)) / self._rate
            time.sleep(max(0.0, due - time.perf_counter()))  # a piece arrives when it is through
            self._end.sendall(piece)


@contextmanager
def paced_socket(bits_per_s: float, serve: Serve) -> Iterator[Connection]:
    """Open a connection over loopback whose sender keeps to a rate.

    Args:
        bits_per_s: of what the device sends.
        serve: the server half; runs in a thread.
    """
    listening = socket.create_server(("127.0.0.1", 0))
    with _served(listening, serve) as address, _connected(address) as end:
        yield Connection(end, bits_per_s)


@contextmanager
def veth(bits_per_s: float, serve: Serve) -> Iterator[Connection]:
    """Open a connection through a rate-limited veth, the server in a namespace of its own.

    Args:
        bits_per_s: of what the device's end sends.
        serve: the server half; runs in a thread.

    Raises:
        UsageError: without root, `ip` and `tc`, or where the kernel refuses.
    """
    check_veth()
    name, device = f"ladon-{os.getpid()}", f"lad{os.getpid()}"
    # two addresses of a /30 of this process in the range for tests of network devices (RFC 2544)
    third, fourth = divmod(os.getpid() % (1 << 14), 64)
    ours, theirs = (f"198.18.{third}.{4 * fourth + host}" for host in (1, 2))
    with ExitStack() as stack:
        _run("ip", "netns", "add", name)
        stack.callback(_clean_up, "ip", "netns", "del", name)
        _run("ip", "link", "add", device, "type", "veth", "peer", "name", f"{device}s")
        stack.callback(_clean_up, "ip", "link", "del", device)
        _run("ip", "link", "set", f"{device}s", "netns", name)
        _run("ip", "addr", "add", f"{ours}/30", "dev", device)
        _run("ip", "link", "set", device, "mtu", str(_packet_bytes(bits_per_s)), "up")
        _run("ip", "-n", name, "addr", "add", f"{theirs}/30", "dev", f"{device}s")
        _run("ip", "-n", name, "link", "set", f"{device}s", "up")
        _run("tc", "qdisc", "add", "dev", device, "root", "tbf", *_bucket(bits_per_s))
        listening = _in_namespace(name, lambda: socket.create_server((theirs, 0)))
        address = stack.enter_context(_served(listening, serve))
        yield Connection(stack.enter_context(_connected(address)), None)


OPENERS = {"socket": paced_socket, "veth": veth}
"""By the kinds of `KINDS` that are real."""


def check_veth() -> None:
    """Refuse what `veth` cannot do here.

    Raises:
        UsageError: naming what is missing.
    """
    if os.geteuid() != 0:
        raise UsageError(
            "--link veth: network namespaces are root's: run it as root, or take --link socket"
        )
    for tool in ("ip", "tc"):
        if shutil.which(tool) is None:
            raise UsageError(
                f"--link veth: there is no '{tool}' (iproute2): install it, or take --link socket"
            )


def _packet_bytes(bits_per_s: float) -> int:
    return 576 if bits_per_s < _SLOW else 1500


def _bucket(bits_per_s: float) -> tuple[str, ...]:
    # it must hold a packet, and what the kernel lets through between two of its ticks
    bucket = max(_packet_bytes(bits_per_s) + 64, int(bits_per_s / 8 * 0.002))
    # a queue of a second: nothing is dropped
    queue = max(100 * bucket, int(bits_per_s / 8))
    return ("rate", f"{int(bits_per_s)}bit", "burst", str(bucket), "limit", str(queue))


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        why = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise UsageError(
            f"--link veth: '{' '.join(command[:3])}' failed ({why}): take --link socket"
        )


def _clean_up(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        logger.warning("'%s' failed: %s", " ".join(command), done.stderr.strip())


def _in_namespace(name: str, make: Callable[[], socket.socket]) -> socket.socket:
    """Make a socket in a network namespace: it stays there, whichever thread uses it."""
    made: list[socket.socket | OSError] = []

    def work() -> None:
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            with open(f"/run/netns/{name}", encoding="ascii") as namespace:
                # of this thread alone, which ends here
                if libc.setns(namespace.fileno(), _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            made.append(make())
        except OSError as error:
            made.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if isinstance(made[0], OSError):
        raise UsageError(f"--link veth: {made[0]}: take --link socket")
    return made[0]


@contextmanager
def _served(listening: socket.socket, serve: Serve) -> Iterator[tuple[str, int]]:
    """Answer one connection in a thread as long as this is open; give the address."""
    listening.settimeout(_TIMEOUT_S)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            end, _ = listening.accept()
            with end:
                _set_up(end)
                while (parts := _receive(end)) is not None:
                    answer = serve(parts) if parts else b""
                    end.sendall(_COUNT.pack(1) + _LENGTH.pack(len(answer)) + answer)
        except BaseException as error:  # raised where the connection was opened
            failures.append(error)

    thread = threading.Thread(target=work, daemon=True)
    with listening:
        thread.start()
        try:
            yield listening.getsockname()[:2]
        except LadonError:
            if not failures:
                raise
        with contextlib.suppress(OSError):  # ends an accept that nobody came to
            listening.shutdown(socket.SHUT_RDWR)
        thread.join(_TIMEOUT_S)
    if failures and not isinstance(failures[0], OSError):
        raise failures[0]


@contextmanager
def _connected(address: tuple[str, int]) -> Iterator[socket.socket]:
    with socket.create_connection(address, timeout=_TIMEOUT_S) as end:
        _set_up(end)
        yield end


def _set_up(end: socket.socket) -> None:
    end.settimeout(_TIMEOUT_S)
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _receive(end: socket.socket) -> list[bytes] | None:
    """Return the parts of the next message; None where the other end has hung up before it."""
    first = end.recv(1)
    if not first:
        return None
    parts = []
    for _ in range(_COUNT.unpack(first)[0]):
        (length,) = _LENGTH.unpack(_exactly(end, _LENGTH.size))
        parts.append(_exactly(end, length))
    return parts


def _exactly(end: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        piece = end.recv(min(count - len(data), 1 << 20))
        if not piece:
            raise ConnectionResetError("the other end hung up")
        data += piece
    return bytes(data)
