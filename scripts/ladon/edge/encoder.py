"""The device's half: an image to a payload, by onnxruntime, numpy and Pillow.

encoder = EdgeEncoder("edge/")                # what `ladon export edge` wrote
payload = encoder.encode("photo.jpg")
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ladon.codec.container import Payload
from ladon.edge.coder import FactorizedCoder, fastest_rans
from ladon.edge.fitting import Fitted
from ladon.edge.manifest import ENCODER, INPUT, OUTPUT, TABLES, Manifest
from ladon.errors import LadonError, UsageError, in_one_line
from ladon.images import open_image

OnStage = Callable[[str, float], None]
"""Called with a stage's name and its seconds, after each: 'analysis', 'coding'."""


class EdgeEncoder:
    """An exported encoder; one thread at a time.

    Another runtime rounds otherwise than PyTorch does: about one symbol in two million differs by
    one from what the library's own encoder says. That is harmless: the payload decodes to the
    latent that this encoder meant, bit for bit.

    Attributes:
        manifest: what the folder says of itself.
        coder: writes the payload's string.

    Args:
        folder: what `ladon export edge` wrote.
        threads: of the network; None: as many as onnxruntime chooses.

    Raises:
        DataError: the folder is incomplete or damaged.
        UsageError: onnxruntime is missing.
    """

    def __init__(self, folder: str | os.PathLike, *, threads: int | None = None) -> None:
        self.folder = Path(folder)
        self.manifest = Manifest.read(self.folder)
        rans = fastest_rans(self.folder, self.manifest)
        self.coder = FactorizedCoder.load(self.manifest.check(self.folder, TABLES), rans)
        self._session = _session(self.manifest.check(self.folder, ENCODER), threads)

    def fit(self, image: str | os.PathLike | Image.Image | np.ndarray) -> Fitted:
        """Make an image the encoder's input.

        Args:
            image: a file, a picture of any mode, or pixels [H, W, 3] uint8.
        """
        if isinstance(image, np.ndarray):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                shape = "x".join(map(str, image.shape))
                raise UsageError(f"an image of {shape} {image.dtype}, not pixels [H, W, 3] uint8")
            image = Image.fromarray(image)
        elif not isinstance(image, Image.Image):
            image = open_image(image)
        return self.manifest.fitting(image if image.mode == "RGB" else image.convert("RGB"))

    def latent(self, fitted: Fitted) -> np.ndarray:
        """Return the latent [C, h, w] float32 of an input, not rounded.

        Raises:
            LadonError: the network fails, for lack of memory or for an input that is too small.
        """
        try:
            (latents,) = self._session.run([OUTPUT], {INPUT: fitted.input[None]})
        except Exception as error:  # onnxruntime's errors have no common class of their own
            size = "x".join(map(str, fitted.input_size))
            raise LadonError(f"the encoder fails for {size}: {in_one_line(error)}") from error
        return latents[0]

    def encode_fitted(self, fitted: Fitted, *, on_stage: OnStage | None = None) -> Payload:
        """Encode what `fit` gave."""
        start = time.perf_counter()
        latent = self.latent(fitted)
        between = time.perf_counter()
        string = self.coder.encode(self.coder.symbols(latent))
        if on_stage is not None:
            on_stage("analysis", between - start)
            on_stage("coding", time.perf_counter() - between)
        return Payload(
            strings=(string,),
            shape=(latent.shape[1], latent.shape[2]),
            encoder_id=self.manifest.encoder_id,
            kind=self.manifest.kind,
            image_size=fitted.image_size,
            scaled_size=fitted.scaled_size,
            input_size=fitted.input_size,
            fit=fitted.fit,
        )

    def encode(self, image: str | os.PathLike | Image.Image | np.ndarray) -> Payload:
        """Encode an image, as `fit` takes it."""
        return self.encode_fitted(self.fit(image))


def _session(path: Path, threads: int | None) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise UsageError(
            f"the encoder runs in onnxruntime, which cannot be imported ({in_one_line(error)}): "
            "pip install -r requirements.txt"
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors are raised; the rest is for its developers
    if threads is not None:
        options.intra_op_num_threads = threads
    # of inputs of many sizes, each would keep memory of its own
    options.enable_mem_pattern = False
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
