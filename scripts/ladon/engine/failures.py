"""Failures that come from elsewhere, in words: from the device, a worker, and another process."""

from __future__ import annotations

import re

import torch
import torch.distributed as dist

from ladon.errors import DeviceError, LadonError

# what a device reports late, after the call that caused it; torch before 2.8 has no class for it
ACCELERATOR_ERRORS: tuple[type[Exception], ...] = tuple(
    getattr(torch, name) for name in ("AcceleratorError",) if hasattr(torch, name)
)
# what torch says of one that is gone, up to its advice
_WORKER = re.compile(
    r"DataLoader worker \(pid(\(s\))? [^)]*\) (is killed by signal: [^.]*|exited unexpectedly)"
)


def device_failure(error: BaseException, device: torch.device, where: str = "") -> LadonError:
    """Return what a device's error means.

    Args:
        error: one of `ACCELERATOR_ERRORS`.
        device: of this process.
        where: stage and dataset, if known.
    """
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    place = f" in {where}" if where else ""
    kind = LadonError if device.type == "cpu" else DeviceError
    if "device-side assert" not in first:
        return kind(f"{device} failed{place}: {first}")
    labels = "the labels of the dataset" if where else "the dataset's labels"
    return kind(
        f"{device} failed{place}: {first}: usually a label outside the model's classes: compare "
        f"{labels} with num_classes (the device reports it late: set CUDA_LAUNCH_BLOCKING=1 to "
        "find the place)"
    )


def worker_failure(error: BaseException) -> str | None:
    """Return in one line what became of a loader's worker, None if the error is not of that."""
    seen: BaseException | None = error
    found = None
    while seen is not None:
        if isinstance(seen, RuntimeError) and (said := _WORKER.match(str(seen))):
            found = said[0]  # the first cause knows the signal
        seen = seen.__cause__ or seen.__context__
    if found is None:
        return None
    return (
        f"{found}: usually the machine's memory did not suffice; lower num_workers or batch_size, "
        "then add --resume to go on"
    )


def is_connection_error(error: BaseException) -> bool:
    """Whether an operation among processes failed: another one is gone, hangs or cannot be met."""
    return isinstance(error, getattr(dist, "DistError", ())) or (
        isinstance(error, RuntimeError) and "/gloo/" in str(error)
    )


def connection_reason(error: BaseException) -> str:
    """Return what a connection error says in its first sentence, without torch's source lines."""
    text = re.sub(r"^\[[^\]]*\]\s*", "", " ".join(str(error).split()))
    return text.split(". ")[0].rstrip(".")
