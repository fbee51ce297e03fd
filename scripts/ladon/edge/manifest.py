"""The folder that goes to a device, and what its `model.json` says.

model.json        this, as `Manifest.to_plain` gives it
encoder.onnx      images [N, 3, H, W] float32, normalised, to latents [N, C, h, w] float32
tables.npz        of the coder, for each of L levels of rate (1 where there is one rate):
                  cdf [L C, W], length [L C], offset [L C] int32, medians [C], steps [L, C] float32
librans-….so      the coder for a kind of processor, as far as a compiler was there
edge.py, ladon/   what runs there: copied from this library as it is
requirements.txt  what that needs
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ladon.codec.container import ENCODER_ID_BYTES, BottleneckKind
from ladon.codec.rates import Rates
from ladon.edge.fitting import Fitting
from ladon.errors import DataError, in_one_line

FORMAT = 2
MANIFEST, ENCODER, TABLES = "model.json", "encoder.onnx", "tables.npz"
LAUNCHER, REQUIREMENTS = "edge.py", "requirements.txt"
INPUT, OUTPUT = "image", "latent"
"""Names in the encoder's graph."""


@dataclass(frozen=True)
class LatentSide:
    """How the latent's height and width follow from the input's: floor((side + offset) / stride).

    Attributes:
        stride: pixels from one position to the next.
        offset: in pixels.
    """

    stride: int
    offset: int

    def __call__(self, side: int) -> int:
        """Return a side of the latent, in positions, of a side of the input, in pixels."""
        return (side + self.offset) // self.stride


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What `model.json` says.

    Attributes:
        name: of the experiment.
        heads: that its server half answers.
        class_names: by head, as far as checkpoints tell them.
        encoder_id: of the payloads.
        kind: of the bottleneck.
        latent_channels: C.
        latent_side: None for an encoder whose latent's size follows from the input's otherwise.
        fitting: how an image becomes the encoder's input.
        rates: that it encodes at; None: it has one.
        opset: of ONNX, of the encoder's graph.
        precision: of the encoder: 'float32' or 'int8'.
        origin: where the weights come from.
        licence: of the weights.
        ladon: version of this library.
        files: SHA-256 of each other file by its name in the folder, in hexadecimal digits.
    """

    name: str
    heads: tuple[str, ...]
    class_names: Mapping[str, list[str] | None]
    encoder_id: bytes
    kind: BottleneckKind
    latent_channels: int
    latent_side: LatentSide | None
    fitting: Fitting
    rates: Rates | None
    opset: int
    precision: str
    origin: Mapping[str, Any]
    licence: str
    ladon: str
    files: Mapping[str, str]

    def to_plain(self) -> dict[str, Any]:
        """Return it in JSON's types."""
        plain = {**vars(self), "kind": self.kind.name.lower(), "encoder_id": self.encoder_id.hex()}
        plain["fitting"] = self.fitting.to_plain()
        plain["rates"] = None if self.rates is None else asdict(self.rates)
        plain["latent_side"] = None if self.latent_side is None else asdict(self.latent_side)
        return {"format": FORMAT, **plain}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Manifest:
        """Read what `to_plain` gave; raises whatever comes of something else."""
        values = {key: value for key, value in plain.items() if key != "format"}
        values["heads"] = tuple(values["heads"])
        values["kind"] = BottleneckKind[values["kind"].upper()]
        values["encoder_id"] = bytes.fromhex(values["encoder_id"])
        if len(values["encoder_id"]) != ENCODER_ID_BYTES:
            raise ValueError(f"an encoder id of {len(values['encoder_id'])} bytes")
        values["fitting"] = Fitting.from_plain(values["fitting"])
        rates = values.get("rates")  # folders of format 1 have none
        values["rates"] = None if rates is None else Rates(**rates)
        if values["latent_side"] is not None:
            values["latent_side"] = LatentSide(**values["latent_side"])
        return cls(**values)

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read a folder's.

        Raises:
            DataError: it is missing, damaged, or of a newer format.
        """
        path = folder / MANIFEST
        try:
            plain = json.loads(path.read_text(encoding="utf-8"))
            if plain["format"] > FORMAT:
                raise DataError(
                    f"{path}: of format {plain['format']}, newer than {FORMAT}: use the edge.py "
                    "that is beside it"
                )
            return cls.from_plain(plain)
        except FileNotFoundError:
            raise DataError(
                f"{path} is missing: name a folder that `ladon export edge` wrote"
            ) from None
        except DataError:
            raise
        except Exception as error:  # whatever the file holds
            raise DataError(
                f"{path} is damaged ({in_one_line(error)}): copy the folder anew"
            ) from error

    def check(self, folder: Path, name: str) -> Path:
        """Return the path of a file of the folder, once its content is what it was.

        Raises:
            DataError: it is missing or has changed.
        """
        path = folder / name
        try:
            is_right = sha256(path) == self.files.get(name)
        except OSError as error:
            reason = error.strerror or error
            raise DataError(f"{path} cannot be read ({reason}): copy the folder anew") from error
        if not is_right:
            raise DataError(f"{path} is not what {MANIFEST} says: copy the folder anew")
        return path


def sha256(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
