# ruff: noqa: T201  # figures for a person
"""Load on a server that runs: several clients for some time, or hostile payloads. By hand:

    PYTHONPATH=scripts:tests python tests/serve_load.py CONFIG HOST:PORT --clients 8 --seconds 60
    PYTHONPATH=scripts:tests python tests/serve_load.py CONFIG HOST:PORT --hostile 10000

Each client waits for its answer before it sends again, and compares it with what the model answers
in this process.
"""

from __future__ import annotations

import argparse
import http.client
import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from serving import check, damaged
from split_models import pixels

import ladon
from ladon.edge.messages import HEADER_LENGTH
from ladon.edge.protocol import Request, Response, infer_path


def ask(connection: http.client.HTTPConnection, data: bytes, name: str = ""):
    """Send a payload; return status, headers and body."""
    message = Request(payload=data, request_id=name).to_message()
    connection.request("POST", infer_path(), message.body, message.headers)
    response = connection.getresponse()
    return response.status, response.headers, response.read()


def metrics(url: str) -> dict[str, float]:
    connection = http.client.HTTPConnection(url, timeout=60)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    return {k: float(v) for k, v in (x.rsplit(" ", 1) for x in lines if not x.startswith("#"))}


def stream(url: str, number: int, pairs: list, end: float) -> list[float]:
    """One client; returns the seconds of each request."""
    connection, taken = http.client.HTTPConnection(url, timeout=60), []
    while time.monotonic() < end:
        data, expected = pairs[(number + len(taken)) % len(pairs)]
        name, start = f"{number}-{len(taken)}", time.perf_counter()
        status, headers, body = ask(connection, data, name)
        taken.append(time.perf_counter() - start)
        assert status == 200, body
        response = Response.from_message(body, headers[HEADER_LENGTH])
        assert response.request_id == name
        check(response.answers, expected)
    return taken


def load(url: str, pairs: list, clients: int, seconds: float) -> None:
    """Run the clients; print what came of it."""
    before, end = metrics(url), time.monotonic() + seconds
    with ThreadPoolExecutor(clients) as pool:
        jobs = [pool.submit(stream, url, n, pairs, end) for n in range(clients)]
        taken = [t for job in jobs for t in job.result()]
    after = metrics(url)
    batches = after["ladon_batch_size_count"] - before["ladon_batch_size_count"]
    answered = after["ladon_batch_size_sum"] - before["ladon_batch_size_sum"]
    p50, p95, p99 = (1000 * np.percentile(taken, q) for q in (50, 95, 99))
    print(f"{len(taken)} answers, all right, {len(taken) / seconds:.1f}/s;", end=" ")
    print(f"{answered / batches:.2f} payloads a batch;", end=" ")
    print(f"ms: p50 {p50:.0f}, p95 {p95:.0f}, p99 {p99:.0f}")


def hostile(url: str, pairs: list, number: int) -> None:
    """Send damaged payloads; print the statuses and the server's memory."""
    chance, statuses = random.Random(0), Counter[int]()
    connection = http.client.HTTPConnection(url, timeout=60)
    for n in range(number):
        if n % (number // 10) == 0:
            memory = metrics(url)["process_resident_memory_bytes"] / 2**20
            print(f"after {n}: {memory:.0f} MiB, {dict(statuses)}", flush=True)
        data = damaged(chance.choice(pairs)[0], chance, mended=n % 5 == 4)
        status, _, body = ask(connection, data)
        statuses[status] += 1
        assert status in (200, 400, 413, 422), body
    check_one = ask(connection, pairs[0][0])
    assert check_one[0] == 200
    print(f"{metrics(url)['process_resident_memory_bytes'] / 2**20:.0f} MiB, {dict(statuses)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config")
    parser.add_argument("url")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--hostile", type=int)
    args = parser.parse_args()
    with ladon.load(args.config) as model:
        sent = [model.encode(pixels(seed=n)) for n in range(8)]
        pairs = [(one.to_bytes(), model.answer(one)) for one in sent]
    if args.hostile:
        hostile(args.url, pairs, args.hostile)
    else:
        load(args.url, pairs, args.clients, args.seconds)


if __name__ == "__main__":
    main()
