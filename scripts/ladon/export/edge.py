"""The folder for a device: the encoder, the coder, and what runs them there without PyTorch.

Only bottlenecks with a factorised prior are exported. A hyperprior's strings say nothing without
the scales that its transform `h_s` predicts on both sides: these choose each symbol's table, and
one that is rounded otherwise makes all the symbols behind it decode to something else. PyTorch and
onnxruntime round otherwise, as do processors; sender and receiver would have to compute `h_s` in
whole numbers, which has to be trained for (J. Ballé, N. Johnston and D. Minnen, "Integer networks
for data compression with latent-variable models", ICLR 2019). A factorised prior's tables are data:
whatever the encoder rounds to is decoded to the bit.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from compressai.entropy_models import EntropyBottleneck

from ladon import __version__
from ladon.bottlenecks.entropy import entropy_models
from ladon.bottlenecks.variable_entropy import STEPS
from ladon.codec.tables import as_tables
from ladon.edge.coder import EdgeTables
from ladon.edge.encoder import run_encoder, start_session
from ladon.edge.manifest import ENCODER, LAUNCHER, MANIFEST, REQUIREMENTS, TABLES, Manifest, sha256
from ladon.errors import LadonError, UsageError, cannot_write
from ladon.export.graph import (
    OPSET,
    TOLERANCE,
    check_images,
    export_encoder,
    import_onnx,
    largest_error,
    latent_side,
)
from ladon.export.int8 import quantize_encoder
from ladon.export.libraries import build_libraries
from ladon.images import as_image
from ladon.launch import PACKAGE
from ladon.replacing import write_json
from ladon.split.model import SplitModel

MODULES = (
    "__init__.py",
    "choices.py",
    "errors.py",
    "flags.py",
    "images.py",
    "launch.py",
    "lazy.py",
    "process.py",
    "replacing.py",
    "codec/__init__.py",
    "codec/container.py",
    "codec/rates.py",
    "codec/rans.c",
    "codec/rans_native.py",
    "codec/rans_python.py",
    "codec/streams.py",
    "edge/__init__.py",
    "edge/client.py",
    "edge/coder.py",
    "edge/encoder.py",
    "edge/fitting.py",
    "edge/link.py",
    "edge/main.py",
    "edge/manifest.py",
    "edge/messages.py",
    "edge/pace.py",
    "edge/pictures.py",
    "edge/protocol.py",
    "split/__init__.py",
    "split/answers.py",
)
"""Of this package, what runs on a device: none of it imports PyTorch or numba."""


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Attributes:
        folder: the device's.
        manifest: what its `model.json` says.
        largest_error: of the latents of pictures, compared with PyTorch's.
        sizes: bytes of encoder and tables, by file name.
        missing: of each kind of processor without a compiled coder, why.
    """

    folder: Path
    manifest: Manifest
    largest_error: float
    sizes: dict[str, int]
    missing: list[str]


def export_edge(
    model: SplitModel,
    folder: Path,
    *,
    origin: dict[str, str],
    licence: str,
    calibration: Sequence[Path] | None = None,
) -> Exported:
    """Write the folder for a device, whole or not at all.

    Args:
        model: on a CPU.
        folder: not there yet.
        origin: of the weights, as the folder is to say.
        licence: of the weights, likewise.
        calibration: images to quantise the encoder to int8 by; None: it stays in float32.

    Raises:
        UsageError: the model cannot be exported, or the folder is there.
        LadonError: the encoder does not compute there what it does here, or the disk is full.
    """
    import_onnx()
    prior = _factorized_prior(model)
    if folder.exists():
        raise UsageError(f"{folder} is there already: name a new folder")
    try:
        with _whole_or_not(folder) as inside:
            worst = _write_encoder(model, inside, calibration)
            channels = _write_tables(model, prior, inside)
            missing = build_libraries(inside)
            _copy_modules(inside)
            manifest = _manifest(model, channels, inside, origin, licence, calibration)
            write_json(inside / MANIFEST, manifest.to_plain())
            sizes = {name: (inside / name).stat().st_size for name in (ENCODER, TABLES)}
    except OSError as error:
        raise cannot_write(folder, error) from error
    return Exported(folder, manifest, worst, sizes, missing)


def _factorized_prior(model: SplitModel) -> EntropyBottleneck:
    """Return the one entropy model of a bottleneck that can be exported.

    Raises:
        UsageError: it is another kind.
    """
    bottleneck = model.bottleneck
    priors = list(entropy_models(bottleneck).values())
    kind = type(bottleneck).__name__
    if len(bottleneck.transforms) > 1 or len(bottleneck.parts) > 1:
        raise UsageError(
            f"{model.name}: {kind} has a hyperprior, which is not exported: both sides would have "
            "to predict its scales alike to the bit, and a device's runtime rounds otherwise than "
            "PyTorch; take a bottleneck with a factorised prior (FPBasedResNetBottleneck)"
        )
    if len(priors) != 1 or not isinstance(priors[0], EntropyBottleneck):
        raise UsageError(f"{model.name}: {kind} has not one factorised prior, and is not exported")
    return priors[0]


@contextmanager
def _whole_or_not(folder: Path) -> Iterator[Path]:
    """Give a folder beside another one, whose name it gets once all went well."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_encoder(model: SplitModel, folder: Path, calibration: Sequence[Path] | None) -> float:
    """Write the graph; return its largest error, of float32."""
    path, coding = folder / ENCODER, model.bottleneck.coding
    export_encoder(model.bottleneck.analysis, path)
    images, session = check_images(), start_session(path)
    with torch.inference_mode():
        eager = [coding.analyse(image).numpy() for image in images]
    error = largest_error(eager, [run_encoder(session, image.numpy()) for image in images])
    if not error <= TOLERANCE:
        raise LadonError(
            f"{model.name}: the exported encoder's latents differ from PyTorch's by {error:.3g}, "
            f"over {TOLERANCE:g}: it is not written"
        )
    if calibration is not None:
        exact = folder / f"float32-{ENCODER}"
        path.rename(exact)
        inputs = (model.fitting(as_image(image)).input for image in calibration)
        quantize_encoder(exact, path, inputs)
        exact.unlink()
    return error


def _write_tables(model: SplitModel, prior: EntropyBottleneck, folder: Path) -> int:
    """Write the coder's tables, once they give the strings that the library writes; return C."""
    medians = prior._get_medians().detach().reshape(-1)
    steps = getattr(prior, STEPS, torch.ones(1, len(medians)))
    rows = as_tables(
        prior._quantized_cdf, prior._cdf_length, prior._offset, steps.numel(), "level's channel"
    )
    tables = EdgeTables(*rows, medians.cpu().numpy(), steps.cpu().numpy())
    generator = torch.Generator().manual_seed(0)
    latent = 8 * torch.randn(1, len(medians), 5, 7, generator=generator)
    for level in range(len(steps)):
        levels = None if model.rates is None else [level]
        (strings,) = model.bottleneck.coding.code(latent, levels)["strings"]
        coder = tables.level(level)
        if coder.encode(coder.symbols(latent[0].numpy())) != strings[0]:
            raise UsageError(
                f"{model.name}: {type(model.bottleneck).__name__} does not code its latent around "
                "the medians of its prior, channel by channel, and is not exported"
            )
    tables.save(folder / TABLES)
    return len(medians)


def _copy_modules(folder: Path) -> None:
    for name in MODULES:
        target = folder / "ladon" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PACKAGE / name, target)
    shutil.copyfile(PACKAGE / "edge" / "__main__.py", folder / LAUNCHER)
    shutil.copyfile(PACKAGE / "edge" / REQUIREMENTS, folder / REQUIREMENTS)


def _manifest(
    model: SplitModel,
    channels: int,
    folder: Path,
    origin: dict[str, str],
    licence: str,
    calibration: Sequence[Path] | None,
) -> Manifest:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return Manifest(
        name=model.name,
        heads=model.heads,
        class_names=model.class_names,
        encoder_id=model.encoder_id,
        kind=type(model.bottleneck).payload_kind,
        latent_channels=channels,
        latent_side=latent_side(model.bottleneck.analysis),
        fitting=model.fitting,
        rates=model.rates,
        opset=OPSET,
        precision="float32" if calibration is None else "int8",
        origin=origin,
        licence=licence,
        ladon=__version__,
        files={path.relative_to(folder).as_posix(): sha256(path) for path in files},
    )
