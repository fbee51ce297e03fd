"""Checkpoints with keys renamed, nested or retyped, cut, with flipped bits: right or refused."""

from __future__ import annotations

import argparse
import functools
import io
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compressai.entropy_models import EntropyBottleneck
from fuzzing import DAMAGES, damaged, folder, fuzz, in_child, refusals
from hypothesis import strategies as st
from torch import nn

from ladon.codec.coder import LatentCoder
from ladon.errors import CheckpointError
from ladon.models.checkpoint import load_into, read_checkpoint

CHANNELS = 3


def model() -> nn.Module:
    torch.manual_seed(0)
    layers = OrderedDict(
        conv=nn.Conv2d(2, CHANNELS, 1),
        norm=nn.BatchNorm2d(CHANNELS),
        entropy_bottleneck=EntropyBottleneck(CHANNELS, filters=(2,)),
    )
    return nn.Sequential(layers)


@functools.cache
def template() -> nn.Module:
    made = model()
    made.entropy_bottleneck.update()
    return made


def base() -> dict[str, Any]:
    return {
        "model": OrderedDict((n, t.clone()) for n, t in template().state_dict().items()),
        "optimizer": {"state": {0: {"step": 3}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "best_value": 0.5,
        "lr_scheduler": {"last_epoch": 1},
        "args": {"seed": 1},
        "classes": ["a", "b"],
    }


NAMES = sorted(template().state_dict())
KEYS = [("model", name) for name in NAMES] + [(key,) for key in base()]
VALUES: list[Any] = [
    None,
    True,
    0,
    -1,
    1.5,
    "",
    "x",
    float("nan"),
    [],
    {},
    (),
    [1],
    {"a": 1},
    10**30,
    b"x",
    torch.tensor(1.0),
    torch.zeros(0),
    torch.zeros(3),
    torch.full((3,), float("nan")),
    torch.zeros(3, 1, 3),
    torch.ones(3, dtype=torch.int32),
    torch.full((3,), 1e30),
    torch.zeros(3, 5, dtype=torch.int32),
    torch.zeros(3, 2, 1, 1, dtype=torch.complex64),
    torch.zeros(2, 2).to_sparse(),
    torch.zeros(3, dtype=torch.float64),
    np.float64(1),
    torch.zeros(3).half(),
    np.zeros(3),
    nn.Linear(1, 1),
    nn.Parameter(torch.zeros(3)),
    argparse.Namespace(a=1),
    {"model": {"w": torch.zeros(3)}},
    torch.zeros(3, device="meta"),
    torch.full((3,), -1.0),
    torch.full((3,), 2**31 - 1),
    object,
]
NEW_NAMES = [
    "",
    "x",
    "module.x",
    "conv",
    "conv.weight.x",
    "model",
    "state_dict",
    "ema",
    "n_averaged",
    "a\nb",
    "entropy_bottleneck._matrix0",
    "._orig_mod.",
    "é\ud800",
    "conv.bias",
    3,
    None,
    (1, 2),
    1.5,
    True,
    "module",
    "model.",
    "model.model_ema",
]
PREFIXES = ("module.", "model.", "_orig_mod.", "module._orig_mod.", "x.", "module")
EDITS = st.one_of(
    st.tuples(st.just("drop"), st.sampled_from(KEYS)),
    st.tuples(st.just("set"), st.sampled_from(KEYS), st.integers(0, len(VALUES) - 1)),
    st.tuples(st.just("rename"), st.sampled_from(KEYS), st.sampled_from(NEW_NAMES)),
    st.tuples(
        st.just("add"),
        st.sampled_from(["model", None]),
        st.sampled_from(NEW_NAMES),
        st.integers(0, len(VALUES) - 1),
    ),
    st.tuples(
        st.just("cast"),
        st.sampled_from(KEYS[: len(NAMES)]),
        st.sampled_from(
            ["float64", "float16", "int64", "bool", "complex64", "uint8", "bfloat16", "int32"]
        ),
    ),
    st.tuples(
        st.just("shape"),
        st.sampled_from(KEYS[: len(NAMES)]),
        st.sampled_from(["flat", "more", "less", "twice", "none"]),
    ),
    st.tuples(
        st.just("number"),
        st.sampled_from(KEYS[: len(NAMES)]),
        st.integers(0, 40),
        st.sampled_from(
            [0, 1, -1, 2**16, 2**31 - 1, -(2**31), float("nan"), float("inf"), 1e30, 1e-30, 1e300]
        ),
    ),
    st.tuples(st.just("prefix"), st.sampled_from(PREFIXES)),
    st.tuples(
        st.just("nest"),
        st.sampled_from(["model", "state_dict", "model_ema", "ema", "net", "x", "module", ""]),
    ),
    st.tuples(st.just("bare")),
    st.tuples(st.just("metadata"), st.integers(0, len(VALUES) - 1)),
)


def place(content: Any, path: tuple) -> tuple[Any, Any]:
    for key in path[:-1]:
        content = content[key]
    return content, path[-1]


def edited(edits: list) -> Any:
    content: Any = base()
    for what, *more in edits:
        try:
            content = one_edit(content, what, more)
        except (KeyError, TypeError, AttributeError, IndexError, RuntimeError, ValueError):
            continue  # an earlier edit took the place away, or no tensor can be so
    return content


def one_edit(content: Any, what: str, more: list) -> Any:
    if what == "bare":
        return content["model"]
    if what == "nest":
        return {more[0]: content}
    if what == "prefix":
        content["model"] = OrderedDict((more[0] + n, t) for n, t in content["model"].items())
        return content
    if what == "metadata":
        content["model"]._metadata = OrderedDict(
            {"": VALUES[more[0]], "conv": {"version": VALUES[more[0]]}}
        )
        return content
    if what == "add":
        target = content if more[0] is None else content[more[0]]
        target[more[1]] = VALUES[more[2]]
        return content
    parent, key = place(content, more[0])
    old = parent[key]
    if what == "drop":
        del parent[key]
    elif what == "set":
        parent[key] = VALUES[more[1]]
    elif what == "rename":
        parent[more[1]] = parent.pop(key)
    elif what == "cast":
        parent[key] = old.to(getattr(torch, more[1]))
    elif what == "number":
        old.view(-1)[more[1]] = more[2]
    else:
        made = {
            "flat": lambda: old.reshape(-1),
            "more": lambda: old[None],
            "less": lambda: old[:-1],
            "twice": lambda: torch.cat([old, old]),
            "none": lambda: old[:0],
        }
        parent[key] = made[more[1]]()
    return content


def saved(content: Any, legacy: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def written(raw: bytes) -> Path:
    path = folder() / "a.pt"
    path.write_bytes(raw)
    return path


def read(path: Path) -> dict[str, torch.Tensor] | None:
    """The state of a model into which the file was loaded; None where it is refused."""
    fresh = model()
    before = {n: t.clone() for n, t in fresh.state_dict().items()}
    with refusals() as said:
        found = read_checkpoint(path, "test")
        load_into(fresh, found)
    if said:
        assert str(path) in said[0]
        assert len(said[0]) < 1500
        after = fresh.state_dict()
        assert all(torch.equal(after[n], t) for n, t in before.items()), "changed, though refused"
        return None
    state = fresh.state_dict()
    assert sorted(state) == NAMES
    for name, tensor in state.items():
        assert not tensor.is_floating_point() or bool(tensor.isfinite().all()), name
    if state["entropy_bottleneck._offset"].numel():
        with refusals() as said:
            coder = LatentCoder(fresh.entropy_bottleneck)
            latent = torch.linspace(-9, 9, CHANNELS * 20).view(1, CHANNELS, 4, 5)
            payloads = coder.encode(latent)
            assert torch.isfinite(coder.decode(payloads, (4, 5))).all()
    return state


WEIGHT = ("model", "conv.weight")


@fuzz(
    st.lists(EDITS, min_size=1, max_size=3),
    250,
    [("shape", ("model", "norm.num_batches_tracked"), "more")],
    [("cast", WEIGHT, "complex64")],
    [("cast", WEIGHT, "float64"), ("number", WEIGHT, 0, 1e300)],
)
def edits(case):
    content = edited(case)
    try:
        raw = saved(content)
    except Exception:  # no such file can be written
        return
    path = written(raw)
    state = read(path)
    if state is None:
        return
    # whichever edits were let pass, each tensor is one that stands in the file
    held = list(tensors(content))
    for name, tensor in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        assert any(
            t.shape == tensor.shape and torch.equal(t.to(tensor.dtype), tensor) for t in held
        ), f"{name} is not in the file"


def tensors(node: Any):
    if isinstance(node, torch.Tensor):
        yield node
    elif isinstance(node, dict):
        for child in node.values():
            yield from tensors(child)


WHOLE = {legacy: saved(base(), legacy) for legacy in (False, True)}


@fuzz(st.tuples(st.booleans(), DAMAGES), 250)
def damage(case):
    legacy, damages = case
    state = read(written(damaged(WHOLE[legacy], damages)))
    if state is not None and not legacy:  # the format before the zip has no checksums
        assert all(torch.equal(t, template().state_dict()[n]) for n, t in state.items())


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        (
            [("shape", ("model", "norm.num_batches_tracked"), "more")],
            r"1 tensors of another shape \(norm.num_batches_tracked \(1,\) instead of \(\)\)",
        ),
        ([("cast", WEIGHT, "complex64")], r"1 tensors of complex numbers \(conv.weight\)"),
        (
            [("cast", WEIGHT, "float64"), ("number", WEIGHT, 0, 1e300)],
            r"conv.weight holds 1 of 6 numbers that are not finite",
        ),
    ],
)
def test_what_a_model_would_not_hold_is_refused(tmp_path, edits, message):
    path = tmp_path / "a.pt"
    path.write_bytes(saved(edited(edits)))
    fresh = model()
    before = {n: t.clone() for n, t in fresh.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        load_into(fresh, read_checkpoint(path, "test"))
    assert all(torch.equal(t, before[n]) for n, t in fresh.state_dict().items())


def test_checkpoint_files(tmp_path):
    in_child(__name__, tmp_path)
