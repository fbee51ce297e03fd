"""The steps of `make demo-split`: the demo's models between a device's half and a server."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ladon.errors import LadonError, UsageError
from ladon.launch import child_command

_SERVING = "serving "
_STOP_SECONDS = 30


@dataclass(frozen=True)
class Compared:
    """Answers that came over the wire, beside the in-process server half's.

    Attributes:
        num_equal: answers that are the same, to the last digit.
        different: names of the images of the others.
    """

    num_equal: int
    different: tuple[str, ...]


def run(command: Sequence[str | os.PathLike]) -> None:
    """Run a child process to its end; its output goes where this process's goes.

    Raises:
        LadonError: it failed.
    """
    code = subprocess.run(command, check=False).returncode
    if code:
        raise LadonError(f"{' '.join(map(str, command[:4]))} …: failed with exit code {code}")


def make_device(folder: Path, requirements: Path) -> Path:
    """Make the device's environment: what the edge package needs, and no PyTorch.

    Args:
        folder: of the environment; one that is there is kept.
        requirements: the edge package's.

    Returns:
        Its Python.

    Raises:
        LadonError: it cannot be made, or PyTorch is in it.
    """
    python = folder / "bin" / "python"
    if not python.is_file():
        venv.create(folder, with_pip=True)
    run([python, "-m", "pip", "install", "--quiet", "-r", requirements])
    found = subprocess.run([python, "-c", "import torch"], check=False, capture_output=True)
    if not found.returncode:
        raise LadonError(f"{folder}: has PyTorch, which the device's half does without: remove it")
    return python


@contextmanager
def server(configs: Sequence[Path], log: Path) -> Iterator[str]:
    """Give the URL of a server of these models; it is stopped at the end.

    Args:
        configs: of the models.
        log: gets what it logs.

    Raises:
        LadonError: it does not start, or does not end as it should.
    """
    named = (word for config in configs for word in ("--config", str(config)))
    command = [*child_command("serve"), "--local", "--port", "0", *named]
    with log.open("w", encoding="utf-8") as written:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=written, text=True, encoding="utf-8"
        )
    try:
        assert process.stdout is not None
        lines = (line.strip() for line in process.stdout)
        url = next((line for line in lines if line.startswith(_SERVING)), None)
        if url is None:
            raise LadonError(f"the server did not start (exit code {process.wait()}): see {log}")
        yield url.removeprefix(_SERVING).split()[0]
        process.send_signal(signal.SIGTERM)
        if code := process.wait(_STOP_SECONDS):
            raise LadonError(f"the server ended with exit code {code}: see {log}")
    finally:
        process.kill()
        process.wait()


def ask(python: Path, edge: Path, url: str, images: Sequence[Path], sent: Path) -> list[Any]:
    """Let the device's half encode images and ask the server about them.

    Args:
        python: the device's.
        edge: the edge package.
        url: the server's.
        images: image files.
        sent: folder that gets the payloads.

    Returns:
        What it printed of each image, in their order.

    Raises:
        LadonError: it failed.
    """
    shutil.rmtree(sent, ignore_errors=True)
    # on one machine, threads that wait for work would keep the server from its cores
    flags = ["--threads", "1", "--server", url, "--json", "--save-payloads", str(sent)]
    command = [str(python), str(edge / "edge.py"), *flags, *map(str, images)]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise LadonError(f"the device's half failed with exit code {done.returncode}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def compare(config: Path, rows: Sequence[Any], sent: Path, pictures: Path) -> Compared:
    """Compare the answers with those that the server half gives in this process.

    Args:
        config: of the model.
        rows: from `ask`.
        sent: folder of the payloads that were sent.
        pictures: folder that gets each image with its answers drawn.
    """
    import ladon
    from ladon.codec import Payload
    from ladon.images import open_image
    from ladon.split.prediction import Prediction, Saver

    saver, different = Saver(pictures, None), []
    with ladon.load(config) as model:
        for row in rows:
            image = Path(row["image"])
            data = (sent / f"{image.stem}.ladon").read_bytes()
            answers = model.answer(data)
            if json.loads(json.dumps(answers.to_plain())) != row["answers"]:
                different.append(image.name)
            picture, payload = open_image(image, upright=True), Payload.from_bytes(data)
            saver.save(Prediction(image, payload, len(data), answers, picture))
    saver.close()
    return Compared(len(rows) - len(different), tuple(different))


def first_images(folder: Path, count: int) -> list[Path]:
    """Return the first scenes of an image folder, by their names.

    Raises:
        UsageError: there are fewer.
    """
    found = sorted(folder.glob("*/*.png"), key=lambda path: path.name)[:count]
    if len(found) < count:
        raise UsageError(f"{folder}: has {len(found)} scenes, not {count}: run make demo first")
    return found
