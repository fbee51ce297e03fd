"""A Ray cluster of two nodes on this machine, by loopback only, one of which can be lost.

Run as a script (minutes), it sweeps a tiny family of digit scenes here and on such a cluster, takes
a node away while both students learn, and compares what came of it:

    python tests/ray_nodes.py FOLDER
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
BETAS = ("0.32", "5.12")
_MEMORY = 80 << 20  # bytes for objects, the least that Ray takes


@contextlib.contextmanager
def two_nodes() -> Iterator:
    """Start the cluster, a core each; yield it and its second node."""
    folder = tempfile.mkdtemp(prefix="ladon-ray-")  # a path of sockets must be short
    Path(folder, "ray").mkdir()
    env = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TMPDIR": folder,  # a note of the last cluster, which others would join
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(16),
        # a node that is gone refuses at once, and is missed in seconds
        "RAY_health_check_initial_delay_ms": "1000",
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_timeout_ms": "10000",
        "RAY_health_check_failure_threshold": "2",
    }
    here = {"node_ip_address": "127.0.0.1", "object_store_memory": _MEMORY, "num_cpus": 1}
    with mock.patch.dict(os.environ, env):
        from ray._private import services
        from ray.cluster_utils import Cluster

        # it would take the machine's address in place of the loopback's
        loopback = mock.patch.object(services, "resolve_ip_for_localhost", lambda host: host)
        with contextlib.ExitStack() as stack:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            stack.enter_context(loopback)
            cluster = Cluster()
            stack.callback(cluster.shutdown)
            cluster.add_node(**here, include_dashboard=False, temp_dir=folder)
            yield cluster, cluster.add_node(**here)


def lose(
    cluster,
    node,
    when: Callable[[], bool],
    then: Callable[[], None] = lambda: None,
    seconds: float = 300,
) -> threading.Thread:
    """Start waiting for something; take a node away, with all that runs there, once it is so."""

    def wait() -> None:
        end = time.monotonic() + seconds
        while not when():
            if time.monotonic() > end:
                return
            time.sleep(0.05)
        cluster.remove_node(node, allow_graceful=False)
        then()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


CONFIGS = {
    "teacher": ("teacher/resnet18.yaml", "train: {num_epochs: 1}"),
    "student": (
        "ladon/_base_/classification.yaml",
        "beta: 1.0\ntrain: {stage1: {num_epochs: 1}, stage2: {num_epochs: 4}}",
    ),
    "detection": ("ladon/_base_/detection.yaml", "beta: 1.0\ntrain: {num_epochs: 1}"),
    "segmentation": ("ladon/_base_/segmentation.yaml", "beta: 1.0\ntrain: {num_epochs: 1}"),
}


def _prepare(folder: Path) -> list[str]:
    """Write the data and the family; return the sweep's flags."""
    from ladon.data.digits import make_digit_scenes

    make_digit_scenes(folder / "data", num_train=40, num_val=12)
    (folder / "configs").mkdir(parents=True, exist_ok=True)
    for name, (base, text) in CONFIGS.items():
        path = ROOT / "configs" / "digit_scenes" / base
        (folder / "configs" / f"{name}.yaml").write_text(f"_base_: {path}\n{text}\n")
    flags = f"--configs {folder}/configs --data_root {folder}/data --device cpu --betas"
    return [*flags.split(), *BETAS]


def _sweep(folder: Path, *flags: str) -> float:
    """Run the command in a folder; return its wall time in seconds."""
    from ladon.commands import sweep

    folder.mkdir(parents=True, exist_ok=True)
    before, start = Path.cwd(), time.monotonic()
    os.chdir(folder)
    try:
        code = sweep.main(list(flags))
    finally:
        os.chdir(before)
    if code:
        raise SystemExit(f"sweep ended with {code}")
    return time.monotonic() - start


def _scores(folder: Path) -> dict:
    """Return what all runs found, without what is measured in time."""
    found = {}
    for path in sorted(folder.glob("logs/*/metrics.json")):
        models = json.loads(path.read_text())["models"]
        found[path.parent.name] = {
            role: {key: result.get(key) for key in ("metrics", "payload_bytes", "data_size_kb")}
            for role, result in models.items()
        }
    return found


def _compare(ours: Path, theirs: Path) -> tuple[int, int]:
    """Compare scores and best checkpoints; return how many runs and tensors are equal."""
    import torch

    assert _scores(ours) == _scores(theirs), (_scores(ours), _scores(theirs))
    tensors = 0
    files = sorted(path.relative_to(ours) for path in ours.glob("resource/**/*.pt"))
    assert files == sorted(path.relative_to(theirs) for path in theirs.glob("resource/**/*.pt"))
    for file in files:
        one, other = (torch.load(f / file, weights_only=False)["model"] for f in (ours, theirs))
        assert list(one) == list(other)
        for key, value in one.items():
            assert torch.equal(value, other[key]), (file, key)
        tensors += len(one)
    return len(_scores(ours)), tensors


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(folder: Path) -> None:
    """Show that a family's sweep survives the loss of a node."""
    flags = _prepare(folder)
    here, there = folder / "local", folder / "ray"
    _say(f"local: {_sweep(here, *flags, '--jobs', '2'):.0f} s")

    def both_learn() -> bool:
        logs = [there / f"logs/student-beta{beta}" for beta in BETAS]
        return all((log / "last.pt").exists() for log in logs)

    with two_nodes() as (cluster, node):
        lost = lose(cluster, node, both_learn)
        seconds = _sweep(there, *flags, "--engine", "ray", "--address", cluster.address)
        assert not lost.is_alive()
    resumed = [p.name for p in there.glob("logs/*.txt") if "Resuming from" in p.read_text()]
    assert resumed, "nothing went on from its last checkpoint"
    _say(f"ray, a node lost: {seconds:.0f} s; resumed: {', '.join(resumed)}")
    _say("equal: {} runs' scores, {} tensors".format(*_compare(here, there)))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "scripts"))
    main(Path(sys.argv[1]).resolve())
