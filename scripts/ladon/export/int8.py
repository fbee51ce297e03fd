"""The encoder quantised to int8: a quarter of its size, and other symbols here and there.

Static quantisation of weights and activations, their ranges calibrated on a person's images
(B. Jacob et al., "Quantization and training of neural networks for efficient
integer-arithmetic-only inference", CVPR 2018), by onnxruntime. What is rounded to int8 differs from
what the encoder was trained to say; the payload decodes to the latent that was meant all the same,
and has the encoder's id: tables and decoder are the same ones.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ladon.edge.manifest import INPUT
from ladon.errors import LadonError, in_one_line


def quantize_encoder(source: Path, target: Path, images: Iterable[np.ndarray]) -> None:
    """Write an int8 encoder.

    The last convolution stays in float32: its outputs are rounded to whole numbers anyway, and in
    steps of a 256th of the widest range they would be so twice.

    Args:
        source: the float32 graph.
        target: gets the other.
        images: the encoder's inputs [3, H, W] float32, of a device's usual images.

    Raises:
        LadonError: onnxruntime cannot do it.
    """
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):
        """Gives one image after another."""

        def __init__(self) -> None:
            self._images: Iterator[np.ndarray] = iter(images)

        def get_next(self) -> dict[str, Any] | None:
            """Return the next input, None at the end."""
            image = next(self._images, None)
            return None if image is None else {INPUT: image[None]}

    convolutions = [node.name for node in onnx.load(source).graph.node if node.op_type == "Conv"]
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it advises its developers' further tools
    try:
        quantize_static(
            str(source),
            str(target),
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=convolutions[-1:],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    except Exception as error:  # whatever it meets in a graph or an image
        raise LadonError(f"the encoder cannot be quantised: {in_one_line(error)}") from error
    finally:
        root.setLevel(level)
