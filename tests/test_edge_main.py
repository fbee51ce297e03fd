"""`edge.py` as a person uses it; the encoder and the server are stand-ins."""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from golden_payloads import GOLDEN, golden_bytes
from http_servers import good, refusal, refused_url, serving
from pictures import noise

from ladon.edge import main as edge
from ladon.edge.messages import HEADER_LENGTH
from ladon.edge.protocol import Request
from ladon.images import as_image

SIZE = len(golden_bytes("factorized"))


class Stand:
    """Encodes nothing, but reads its images."""

    manifest = SimpleNamespace(heads=("classification", "detection", "segmentation"), rates=None)

    def __init__(self, folder, *, threads=None):
        self.threads = threads

    def encode(self, image, *, on_stage, **_):
        found = as_image(image)
        for stage in ("fit", "analysis", "coding"):
            on_stage(stage, 0.001)
        return dataclasses.replace(GOLDEN["factorized"], rate=found.width % 200)


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(edge, "EdgeEncoder", Stand)
    monkeypatch.delenv("LADON_TOKEN", raising=False)
    logging.getLogger().handlers.clear()

    def main(*words, code=0):
        assert edge.main(["--model", str(tmp_path), *map(str, words)]) == code
        return capsys.readouterr()

    return main


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, width in (("b.png", 20), ("a.JPG", 30), ("c.webp", 40)):
        noise(24, width).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder


def test_a_folder_and_files_are_a_line_each(run, photos):
    shown = run(photos, photos / "b.png")
    lines = shown.out.splitlines()
    assert [line.partition(":")[0].rpartition("/")[2] for line in lines] == [
        "a.JPG",
        "b.png",
        "c.webp",
        "b.png",
    ]
    assert re.fullmatch(rf".*: {SIZE} bytes, encoded in \d+\.\d ms", lines[0])
    assert re.fullmatch(rf"4 images, medians: {SIZE} bytes, encoded in \d+\.\d ms\n", shown.err)


def test_payloads_are_written_under_names_of_their_own(run, photos, tmp_path):
    run(photos, photos / "b.png", "--save-payloads", tmp_path / "new" / "sent")
    names = sorted(path.name for path in (tmp_path / "new" / "sent").iterdir())
    assert names == ["a.ladon", "b-2.ladon", "b.ladon", "c.ladon"]
    expected = dataclasses.replace(GOLDEN["factorized"], rate=30).to_bytes()
    assert (tmp_path / "new" / "sent" / "a.ladon").read_bytes() == expected


def test_what_cannot_be_written_is_named(run, photos, tmp_path):
    (tmp_path / "file").write_text("")
    assert (
        f"{tmp_path}/file: cannot be written"
        in run(photos, "--save-payloads", tmp_path / "file", code=2).err
    )


def test_a_full_disk_is_failed_work(run, photos, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    said = run(photos, "--save-payloads", tmp_path / "sent", code=1).err
    assert said == (
        f"error: {tmp_path}/sent/a.ladon: cannot be written: No space left on device; make room on "
        "that disk\n"
    )
    assert list((tmp_path / "sent").iterdir()) == []


def test_answers_as_a_person_reads_them_and_as_json(run, photos):
    with serving([good()]) as script:
        line = run(photos / "b.png", "--server", script.url, "--token", "abc").out
        plain = run(photos / "b.png", "--server", script.url, "--json", "--repeat", 3).out
    assert "; answered in " in line
    assert line.endswith("; three 75%; boxes: 1 two; pixels: sky, sea, class 2\n")
    found = json.loads(plain)
    assert found["payload_bytes"] == SIZE
    assert found["answers"]["detection"][0]["class"] == "two"
    assert found["server_milliseconds"] == {"body": 250.0}
    assert set(found["milliseconds"]) == {"fit", "analysis", "coding", "writing", "answer"}
    assert len(script.requests) == 4
    assert script.requests[0][1]["Authorization"] == "Bearer abc"


def test_heads_and_token_of_the_environment(run, photos, monkeypatch):
    monkeypatch.setenv("LADON_TOKEN", "secret")
    with serving([good()]) as script:
        run(photos / "b.png", "--server", script.url, "--heads", "detection", "segmentation")
    _, headers, body = script.requests[0]
    request = Request.from_message(body, headers[HEADER_LENGTH])
    assert request.heads == ("detection", "segmentation")
    assert headers["Authorization"] == "Bearer secret"


def test_a_broken_image_is_named_and_the_others_go_on(run, photos):
    (photos / "b.png").write_bytes(b"no image")
    shown = run(photos, photos / "missing.png", code=1)
    assert len(shown.out.splitlines()) == 2
    errors = [line for line in shown.err.splitlines() if line.startswith("error: ")]
    assert [("b.png" in line, "missing.png" in line) for line in errors] == [
        (True, False),
        (False, True),
    ]


def test_no_server_is_an_error_of_one_line(run, photos):
    url = refused_url()
    shown = run(photos, "--server", url, "--retries", 0, code=1)
    assert shown.out == ""
    assert shown.err.startswith(f"error: {url} cannot be reached (ConnectionRefusedError")
    with serving([refusal(401, "a wrong token")]) as script:
        shown = run(photos, "--server", script.url, code=1)
    assert shown.err == f"error: {script.url} refuses (401): a wrong token\n"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "name images, or --camera, or --video: one of them"),
        (["x.png", "--camera"], "name images, or --camera, or --video: one of them"),
        (["x.png", "--server", "here"], "here: no URL of a server, such as http"),
        (["x.png", "--heads", "detection"], "--heads detection: one has none such"),
        (["."], ".: the folder has no pictures"),
        (["--video", "missing.mp4"], "cannot read video missing.mp4: there is no such file"),
    ],
)
def test_wrong_usage_is_said(run, tmp_path, monkeypatch, words, expected):
    monkeypatch.chdir(tmp_path)
    heads = SimpleNamespace(name="one", heads=("classification",), rates=None)
    monkeypatch.setattr(Stand, "manifest", heads)
    assert run(*words, code=2).err.startswith(f"error: {expected}")


def test_without_a_folder_the_model_has_to_be_named(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "edge.py")])
    assert edge.main(["x.png"]) == 2
    assert capsys.readouterr().err.startswith("error: --model: name a folder that `ladon export")
    (tmp_path / "model.json").write_text("{}")
    assert edge.parse_args(["x.png"]).model == tmp_path


class Capture:
    """OpenCV's reader, of three frames whose first channel, blue, is 7."""

    opened: list = []

    def __init__(self, source):
        self.opened.append(source)
        self._left = 3

    def isOpened(self):
        return self.opened[-1] != 9

    def read(self):
        self._left -= 1
        frame = np.zeros((10, 12, 3), np.uint8)
        frame[..., 0] = 7
        return self._left >= 0, frame if self._left >= 0 else None

    def release(self):
        self.opened.append("released")


def test_frames_of_cameras_and_videos(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace(VideoCapture=Capture))
    seen = []
    encode = Stand.encode

    def noted(self, image, *, on_stage, **_):
        seen.append(image)
        return encode(self, image, on_stage=on_stage)

    monkeypatch.setattr(Stand, "encode", noted)
    monkeypatch.setattr(Capture, "opened", [])
    assert len(run("--camera", "--frames", 2).out.splitlines()) == 2
    video = tmp_path / "a b.mp4"
    video.write_bytes(b"")
    lines = run("--video", video, "--save-payloads", tmp_path / "sent").out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [f"a b.mp4 00000{n}" for n in (1, 2, 3)]
    assert Capture.opened == [0, "released", str(video), "released"]
    assert all(image[..., 2].max() == 7 and image[..., 0].max() == 0 for image in seen)
    names = sorted(path.name for path in (tmp_path / "sent").iterdir())
    assert names == [f"a-b.mp4-00000{n}.ladon" for n in (1, 2, 3)]
    assert "camera 9: cannot be opened" in run("--camera", 9, code=2).err


def test_ctrl_c_ends_a_camera_with_its_numbers(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace(VideoCapture=Capture))
    encode, left = Stand.encode, [2]

    def pressed(self, image, *, on_stage, **_):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return encode(self, image, on_stage=on_stage)

    monkeypatch.setattr(Stand, "encode", pressed)
    shown = run("--camera", code=130)
    assert shown.err.startswith("2 images, medians: ")
    assert shown.err.endswith(" ms\ninterrupted\n")


def test_without_opencv_it_says_what_to_install(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert "pip install opencv-python-headless" in run("--camera", code=2).err
