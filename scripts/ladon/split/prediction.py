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
from ladon.errors import LadonError, PayloadError, UsageError, cannot_write
from ladon.images import shown
from ladon.replacing import replacing
from ladon.split.answers import Answers
from ladon.split.model import SplitModel, as_image
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
    """Return the files that are named, and those in folders that are named, by their names.

    In a folder, files count that end like pictures or payloads, and do not begin with a dot.

    Raises:
        UsageError: a folder has none.
    """
    endings = {*Image.registered_extensions(), PAYLOAD_SUFFIX}
    found: list[Path] = []
    for source in sources:
        path = Path(source).expanduser()
        if not path.is_dir():
            found.append(path)
            continue
        inside = [
            file
            for file in sorted(path.iterdir())
            if file.suffix.lower() in endings and not file.name.startswith(".") and file.is_file()
        ]
        if not inside:
            raise UsageError(f"{shown(path)}: the folder has no pictures and no payloads")
        found += inside
    return found


def predict(model: SplitModel, file: Path, heads: Sequence[str] | None = None) -> Prediction:
    """Return what a model finds in a picture or a payload.

    Args:
        model: both halves.
        file: a picture in any format that Pillow reads, or a payload, `*.ladon`.
        heads: those that are asked; by default all.

    Raises:
        DataError: the picture cannot be read or used.
        PayloadError: the payload is damaged, or another model's.
    """
    if file.suffix.lower() == PAYLOAD_SUFFIX:
        data = _read_payload(file)
        payload = Payload.from_bytes(data, expected=[model.encoder_id], source=shown(file))
        return Prediction(file, payload, len(data), model.answer(payload, heads), None)
    image = as_image(file)
    payload = model.encode(image)
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
        name = self._name(prediction.source.stem)
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

    def _name(self, stem: str) -> str:
        """Return a name that no other file of this run has."""
        names = (stem if not n else f"{stem}-{n + 1}" for n in range(len(self._taken) + 1))
        name = next(name for name in names if name not in self._taken)
        self._taken.add(name)
        return name


def _write(path: Path, write: Any) -> None:
    try:
        with replacing(path) as temporary:
            write(temporary)
    except OSError as error:
        raise cannot_write(shown(path), error) from error


def predictions(
    model: SplitModel, files: Iterable[Path], heads: Sequence[str] | None = None
) -> Iterator[Prediction | LadonError]:
    """Yield what is found in each file, or what was wrong with it: others go on."""
    for file in files:
        try:
            yield predict(model, file, heads)
        except LadonError as error:
            yield error
