"""`--deterministic`: on one machine and build, the same run twice, to the bit.

On a CPU two runs are equal without it, as long as they have as many threads and nobody turns a
dynamic number of threads on; there it pins what that rests on (`ladon.process.pin_arithmetic`). On
a GPU it chooses the operators' reproducible forms. Everywhere an operator that has none is refused
instead of differing in silence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.backends import cudnn
from torch.nn import functional

from ladon.errors import UsageError

# what torch says; a call of cuBLAS is not named
_NO_FORM = re.compile(r"(\S+) does not have a deterministic implementation")
_CUBLAS = re.compile(r"not deterministic because it uses CuBLAS")

_cross_entropy = functional.cross_entropy


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Let torch choose reproducible forms of its operators, and refuse those that have none.

    Args:
        wanted: whether to; False leaves all as it is.
    """
    if not wanted:
        yield
        return
    algorithms = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.use_deterministic_algorithms(True)
    flags = cudnn.flags(cudnn.enabled, benchmark=False, deterministic=True)
    try:
        # the only operator of the paper's three tasks without one has an equal in another shape
        with flags, patch.object(functional, "cross_entropy", _cross_entropy_of):
            yield
    finally:
        torch.use_deterministic_algorithms(algorithms[0], warn_only=algorithms[1])


def _cross_entropy_of(input: Tensor, target: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Stand in for torch's, whose reduced form for maps adds up in any order on a GPU."""
    is_reduced = kwargs.get("reduction", "mean") != "none" and kwargs.get("reduce") is not False
    if input.dim() > 2 and is_reduced and not input.is_cpu:
        return flat_cross_entropy(input, target, *args, **kwargs)
    return _cross_entropy(input, target, *args, **kwargs)


def flat_cross_entropy(input: Tensor, target: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Compute a reduced cross-entropy of maps as that of a list of pixels.

    Args:
        input: scores [N, K, ...].
        target: labels [N, ...], or shares of the classes [N, K, ...].
        *args: further ones of `torch.nn.functional.cross_entropy`.
        **kwargs: the same.
    """
    classes = input.shape[1]
    has_shares = target.shape == input.shape
    listed = target.movedim(1, -1).reshape(-1, classes) if has_shares else target.reshape(-1)
    return _cross_entropy(input.movedim(1, -1).reshape(-1, classes), listed, *args, **kwargs)


def arithmetic() -> dict[str, Any]:
    """Return what rounding depends on, on this machine: threads, and the CPU's instructions."""
    return {
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }


def refusal(error: BaseException) -> UsageError | None:
    """Return what it means that torch refused an operator; None if that was not it."""
    text = str(error) if isinstance(error, RuntimeError) else ""
    if found := _NO_FORM.search(text):
        return UsageError(
            f"--deterministic: {found[1]} has no form that gives the same twice: replace the layer "
            "or loss that calls it, run with --device cpu (where most have one), or leave out "
            "--deterministic"
        )
    if _CUBLAS.search(text):
        return UsageError(
            "--deterministic: cuBLAS adds in any order: set CUBLAS_WORKSPACE_CONFIG=:4096:8 (or "
            ":16:8), or unset it and it is set here"
        )
    return None
