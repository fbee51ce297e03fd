"""The encoder as an ONNX graph, compared with what it computes here."""

from __future__ import annotations

import copy
import logging
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ladon.edge.manifest import INPUT, OUTPUT, LatentSide
from ladon.errors import LadonError, UsageError, in_one_line

OPSET = 18
TOLERANCE = 1e-4
"""Of a latent's values, whose rounding is in steps of one."""

# sides by which a latent's are found, and by which what was found is tried
_SIDES, _FURTHER = range(64, 128), (224, 417, 1201)


def import_onnx() -> Any:
    """Return the package `onnx`.

    Raises:
        UsageError: it or another one that exporting needs is missing.
    """
    try:
        import onnx
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"exporting needs onnx, onnxscript and onnxruntime ({in_one_line(error)}): "
            "pip install 'ladon-multi-task-sc2[export]'"
        ) from error
    return onnx


def export_encoder(analysis: nn.Module, path: Path) -> int:
    """Write an encoder as ONNX of float32, for batches and images of any size.

    Args:
        analysis: images [N, 3, H, W] to latents [N, C, h, w]; left as it is.
        path: of the file.

    Returns:
        Channels of the latent.

    Raises:
        LadonError: torch.onnx cannot express it.
    """
    onnx = import_onnx()
    encoder = copy.deepcopy(analysis).cpu().float().eval().to(memory_format=torch.contiguous_format)
    images = torch.zeros(2, 3, 96, 128)
    any_size = {0: torch.export.Dim("batch"), 2: torch.export.Dim("height")}
    any_size[3] = torch.export.Dim("width")
    try:
        with _silence(), torch.no_grad():
            channels = encoder(images).shape[1]
            program: Any = torch.onnx.export(
                encoder,
                (images,),
                dynamo=True,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=(any_size,),
                opset_version=OPSET,
                verbose=False,
            )
            model = program.model_proto
    except Exception as error:  # of torch.export, of onnxscript, of torch.onnx
        reason = textwrap.shorten(in_one_line(error), 200, placeholder=" …")  # pages, mostly
        raise LadonError(f"the encoder cannot be written as ONNX: {reason}") from error
    _forget_how(model)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return channels


def _forget_how(model: Any) -> None:
    """Remove what an exporter notes for its developers, paths of this machine among it."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info):
        part.ClearField("metadata_props")
    for part in graph.initializer:
        part.ClearField("metadata_props")


@contextmanager
def _silence() -> Iterator[None]:
    """Keep exporters' notes to their developers from the person."""
    loggers = [logging.getLogger(name) for name in ("torch", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def largest_error(eager: list[np.ndarray], other: list[np.ndarray]) -> float:
    """Return the largest difference of latents."""
    return max(float(np.abs(a - b).max()) for a, b in zip(eager, other, strict=True))


def check_images() -> list[Tensor]:
    """Return normalised images [1, 3, H, W] to compare encoders by: noise and waves, odd sizes."""
    generator = torch.Generator().manual_seed(0)
    images = []
    for height, width in ((224, 224), (97, 131), (161, 64)):
        noise = torch.randn(1, 3, height, width, generator=generator)
        rows, columns = torch.arange(height)[:, None] / 17, torch.arange(width)[None] / 23
        waves = torch.stack([torch.sin(rows + columns + phase) for phase in range(3)])
        images += [noise, 2 * waves[None]]
    return images


def latent_side(analysis: nn.Module) -> LatentSide | None:
    """Return how a latent's side follows from the image's.

    Strided convolutions, one after another, make floor((side + offset) / stride) of a side.

    Args:
        analysis: images to latents.

    Returns:
        None if the encoder makes something else of them.
    """
    shapes = copy.deepcopy(analysis).to("meta")
    with torch.no_grad():
        found = {
            side: shapes(torch.empty(1, 3, side, 64, device="meta")).shape[2]
            for side in (*_SIDES, *_FURTHER)
        }
    steps = [side for side in _SIDES[1:] if found[side] != found[side - 1]]  # where it grows
    if len(steps) < 2:
        return None
    stride = steps[1] - steps[0]
    rule = LatentSide(stride, found[steps[0]] * stride - steps[0])
    return rule if all(rule(side) == of_latent for side, of_latent in found.items()) else None
