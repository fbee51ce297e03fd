"""Pictures and payloads in files, one after another: what `ladon predict` works through."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ladon.codec import Payload
from ladon.codec.container import MOST_BODY_BYTES
from ladon.codec.rates import BudgetError
from ladon.edge import pictures
from ladon.errors import LadonError, PayloadError, cannot_write
from ladon.images import as_image, shown
from ladon.replacing import own_name, replacing
from ladon.split.answers import Answers
from ladon.split.model import SplitModel
from ladon.split.pictures import drawn

PAYLOAD_SUFFIX = ".ladon"
_MOST_FILE_BYTES = MOST_BODY_BYTES + 1024


@dataclass(frozen=True)
class Prediction:
    """What was found in one file.

    Attributes:
        source: the file.
        payload: of it.
        num_bytes: of the payload as it is sent.
        answers: of the heads that were asked.
        image: the picture; None where the file is a payload.
    """

    source: Path
    payload: Payload
    num_bytes: int
    answers: Answers
    image: Image.Image | None

    def to_plain(self) -> dict[str, Any]:
        """Return it as a line of JSON has it."""
        return {
            "image": str(self.source),
            "size": list(self.payload.image_size),
            "payload_bytes": self.num_bytes,
            **self.answers.to_plain(),
        }


def find_files(sources: Iterable[str | os.PathLike]) -> list[Path]:
    """Return pictures and payloads: what `ladon.edge.pictures.find_files` finds, with payloads."""
    return pictures.find_files(sources, {PAYLOAD_SUFFIX}, "pictures and no payloads")


def predict(
    model: SplitModel, file: Path, heads: Sequence[str] | None = None, **how: Any
) -> Prediction:
    """Return what a model finds in a picture or a payload.

    Args:
        model: both halves.
        file: a picture in any format that Pillow reads, or a payload, `*.ladon`.
        heads: those that are asked; by default all.
        how: a picture is encoded: `rate` or `max_bytes`, as for `SplitModel.encode`.

    Raises:
        DataError: the picture cannot be read or used, or takes more bytes at any rate.
        PayloadError: the payload is damaged, or another model's.
    """
    if file.suffix.lower() == PAYLOAD_SUFFIX:
        data = _read_payload(file)
        payload = Payload.from_bytes(data, expected=[model.encoder_id], source=shown(file))
        return Prediction(file, payload, len(data), model.answer(payload, heads), None)
    image = as_image(file)
    try:
        payload = model.encode(image, **how)
    except BudgetError as error:
        raise BudgetError(f"{shown(file)}: {error}") from None
    sent = payload.to_bytes()
    # the receiver knows what was sent, and nothing else
    return Prediction(file, payload, len(sent), model.answer(sent, heads), image)


def _read_payload(file: Path) -> bytes:
    try:
        if not file.is_file():
            raise PayloadError(f"{shown(file)}: there is no such file")
        if file.stat().st_size > _MOST_FILE_BYTES:
            raise PayloadError(f"{shown(file)}: {file.stat().st_size:,} bytes are no payload")
        return file.read_bytes()
    except OSError as error:
        raise PayloadError(f"{shown(file)}: cannot be read: {error.strerror}") from error


class Saver:
    """Writes predictions into folders: pictures and `predictions.jsonl`, and payloads.

    Args:
        pictures: folder of the pictures; None: there are none.
        payloads: folder of the payloads; None: they are not kept.
        threshold: objects of a smaller score are not drawn.

    Raises:
        UsageError: a folder cannot be made.
    """

    def __init__(
        self, pictures: Path | None, payloads: Path | None, threshold: float = 0.5
    ) -> None:
        self._pictures, self._payloads, self._threshold = pictures, payloads, threshold
        self._taken: set[str] = set()
        self._lines: list[str] = []
        for folder in (pictures, payloads):
            try:
                if folder is not None:
                    folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise cannot_write(shown(folder or ""), error) from error

    def save(self, prediction: Prediction) -> None:
        """Write one.

        Raises:
            LadonError: the disk is full.
            UsageError: a file cannot be written.
        """
        name = own_name(prediction.source.stem, self._taken)
        if self._payloads is not None:
            sent = prediction.payload.to_bytes()
            _write(self._payloads / f"{name}{PAYLOAD_SUFFIX}", lambda path: path.write_bytes(sent))
        if self._pictures is not None:
            self._lines.append(json.dumps(prediction.to_plain()))
            picture = drawn(
                prediction.image,
                prediction.answers,
                prediction.payload.image_size,
                threshold=self._threshold,
                caption=f"{prediction.num_bytes:,} bytes",
            )
            _write(self._pictures / f"{name}.png", lambda path: picture.save(path, format="PNG"))

    def close(self) -> None:
        """Write `predictions.jsonl` beside the pictures."""
        if self._pictures is not None:
            text = "".join(f"{line}\n" for line in self._lines)
            _write(
                self._pictures / "predictions.jsonl",
                lambda path: path.write_text(text, encoding="utf-8"),
            )


def _write(path: Path, write: Any) -> None:
    try:
        with replacing(path) as temporary:
            write(temporary)
    except OSError as error:
        raise cannot_write(shown(path), error) from error


def predictions(
    model: SplitModel, files: Iterable[Path], heads: Sequence[str] | None = None, **how: Any
) -> Iterator[Prediction | LadonError]:
    """Yield what is found in each file, or what was wrong with it: others go on.

    Args:
        model: the model.
        files: pictures and payloads.
        heads: those that are asked; by default all.
        how: pictures are encoded: `rate` or `max_bytes`, as for `SplitModel.encode`.
    """
    for file in files:
        try:
            yield predict(model, file, heads, **how)
        except LadonError as error:
            yield error
