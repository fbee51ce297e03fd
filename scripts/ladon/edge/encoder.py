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

from ladon.codec.container import Payload
from ladon.codec.rates import check_asked
from ladon.edge.coder import EdgeTables, fastest_rans
from ladon.edge.fitting import Fitted
from ladon.edge.manifest import ENCODER, INPUT, OUTPUT, TABLES, Manifest
from ladon.errors import DataError, UsageError, in_one_line
from ladon.images import ImageLike, as_image

OnStage = Callable[[str, float], None]
"""Called with a stage's name and its seconds, after each: 'analysis', 'coding'."""


class EdgeEncoder:
    """An exported encoder; one thread at a time.

    Another runtime rounds otherwise than PyTorch does: about one symbol in two million differs by
    one from what the library's own encoder says. That is harmless: the payload decodes to the
    latent that this encoder meant, bit for bit.

    Attributes:
        manifest: what the folder says of itself.
        tables: of the coder that writes the payload's string.

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
        self.tables = EdgeTables.load(self.manifest.check(self.folder, TABLES), rans)
        self._session = start_session(self.manifest.check(self.folder, ENCODER), threads)

    def fit(self, image: ImageLike) -> Fitted:
        """Make an encoder's input of an image.

        Args:
            image: as for `ladon.images.as_image`.

        Raises:
            DataError: it cannot be read, is too large, or no image.
        """
        return self.manifest.fitting(as_image(image))

    def latent(self, fitted: Fitted) -> np.ndarray:
        """Return the latent [C, h, w] float32 of an input, not rounded.

        Raises:
            DataError: the network fails: the input is too small, or too large for the memory.
        """
        try:
            return run_encoder(self._session, fitted.input[None])[0]
        except Exception as error:  # onnxruntime's errors have no common class of their own
            size = "x".join(map(str, fitted.input_size))
            raise DataError(f"the encoder fails for {size}: {in_one_line(error)}") from error

    def encode_fitted(
        self,
        fitted: Fitted,
        *,
        rate: float | None = None,
        max_bytes: int | None = None,
        on_stage: OnStage | None = None,
    ) -> Payload:
        """Encode what `fit` gave.

        Args:
            fitted: the encoder's input.
            rate: β, of an encoder for every rate; None: the middle one.
            max_bytes: of such an encoder, instead of a rate: the finest one that has a payload of
                no more bytes, as it is sent.
            on_stage: told of 'analysis' and 'coding'.

        Raises:
            DataError: as for `latent`; the latent is not finite; or the image takes more bytes at
                the coarsest rate.
            UsageError: the encoder has no such rate, or one rate only.
        """
        check_asked(self.manifest.rates, self.manifest.name, rate, max_bytes)
        start = time.perf_counter()
        latent = self.latent(fitted)
        if not np.isfinite(latent).all():
            raise DataError("the image's latent is not finite: the encoder cannot be used on it")
        between = time.perf_counter()
        level, string = self._code(latent, rate, max_bytes)
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
            rate=level,
        )

    def _code(
        self, latent: np.ndarray, rate: float | None, max_bytes: int | None
    ) -> tuple[int | None, bytes]:
        """Return the level and string of a latent [C, h, w]."""
        rates = self.manifest.rates

        def encode(level: int) -> bytes:
            coder = self.tables.level(level)
            return coder.encode(coder.symbols(latent))

        if rates is None:
            return None, encode(0)
        if max_bytes is not None:
            return rates.finest(encode, Payload.body_within(max_bytes))
        level = rates.middle if rate is None else rates.level(rate)
        return level, encode(level)

    def encode(
        self,
        image: ImageLike,
        *,
        rate: float | None = None,
        max_bytes: int | None = None,
        on_stage: OnStage | None = None,
    ) -> Payload:
        """Encode an image, as `fit` takes it; also tells of the stage 'fit'."""
        start = time.perf_counter()
        fitted = self.fit(image)
        if on_stage is not None:
            on_stage("fit", time.perf_counter() - start)
        return self.encode_fitted(fitted, rate=rate, max_bytes=max_bytes, on_stage=on_stage)


def start_session(path: Path, threads: int | None = None) -> Any:
    """Return an onnxruntime session of an encoder.

    Args:
        path: the graph's.
        threads: of the network; None: as many as onnxruntime chooses.

    Raises:
        UsageError: onnxruntime is missing.
    """
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


def run_encoder(session: Any, images: np.ndarray) -> np.ndarray:
    """Return the latents [N, C, h, w] of images [N, 3, H, W], both float32."""
    (latents,) = session.run([OUTPUT], {INPUT: images})
    return latents
