"""`ladon predict`: a table, JSON lines and pictures; a bad file is named, and others go on."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from split_models import CLASS_NAMES, pixels, write_models

from ladon.commands.predict import main
from ladon.split.answers import Answers, Found, Mask
from ladon.split.pictures import color_of, drawn
from ladon.split.prediction import find_files


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(pixels()).save(folder / "a.png")
    Image.fromarray(pixels()).convert("CMYK").save(folder / "b.jpg")
    Image.new("L", (1, 1)).save(folder / "c.png")
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden.png").write_bytes(b"")
    return folder


def predict(configs, *args, model="ladon"):
    return main(["--config", str(configs[model]), *map(str, args)])


def test_a_folder_of_pictures(configs, photos, tmp_path, capsys):
    out, sent = tmp_path / "out", tmp_path / "sent"
    assert predict(configs, photos, "--save", out, "--save-payloads", sent) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("a.png", "b.jpg", "c.png", "120x77", "1x1"))
    assert "what" in printed
    assert "where" in printed
    assert "which pixels" in printed
    rows = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert [Path(row["image"]).name for row in rows] == ["a.png", "b.jpg", "c.png"]
    assert [row["size"] for row in rows] == [[77, 120], [77, 120], [1, 1]]
    for row in rows:
        payload = sent / f"{Path(row['image']).stem}.ladon"
        assert payload.stat().st_size == row["payload_bytes"]
        assert len(row["classification"]) == 5
        assert row["classification"][0]["class"] in CLASS_NAMES["classification"]
        assert row["segmentation"]["size"] == row["size"]
        assert sum(c["pixels"] for c in row["segmentation"]["classes"]) == np.prod(row["size"])
    with Image.open(out / "a.png") as picture:
        assert picture.width >= 6 * 120  # enlarged, so that names can be read
        assert picture.height > 6 * 77
    # the payloads say the same again
    assert predict(configs, sent, "--json") == 0
    again = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [Path(row.pop("image")).name for row in again] == ["a.ladon", "b.ladon", "c.ladon"]
    for row in rows:
        row.pop("image")
    assert again == rows


def test_bad_files_are_named_and_others_go_on(configs, photos, tmp_path, capsys):
    whole = (photos / "b.jpg").read_bytes()
    (photos / "broken.jpg").write_bytes(whole[: len(whole) // 2])
    (photos / "text.png").write_text("no picture")
    (photos / "odd.ladon").write_bytes(b"\x8cLD\x01 and no more")
    assert predict(configs, photos, photos / "gone.png", "--json") == 1
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 3
    errors = [line for line in printed.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 4
    assert "broken.jpg: image file is truncated" in errors[0]
    assert "odd.ladon: a payload of " in errors[1]
    assert "text.png: it is not in an image format" in errors[2]
    assert "gone.png: there is no such file" in errors[3]


def test_one_head_and_its_words(configs, photos, capsys):
    assert predict(configs, photos / "a.png", "--heads", "segmentation") == 0
    printed = capsys.readouterr().out
    assert "which pixels" in printed
    assert "what" not in printed
    assert any(name in printed for name in CLASS_NAMES["segmentation"])
    assert predict(configs, photos / "a.png", model="classification") == 0
    assert "kind " in capsys.readouterr().out


def test_files_of_one_name_are_kept_apart(configs, photos, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (photos / "a.png").rename(other / "b.png")
    out = tmp_path / "out"
    assert predict(configs, photos / "b.jpg", other, "--save", out) == 0
    assert {file.name for file in out.iterdir()} == {"b.png", "b-2.png", "predictions.jsonl"}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--heads", "detection"], "--heads detection: classification has none such"),
        (["--set", "models.model.dst_ckpt=gone.pt"], "checkpoint not found: gone.pt"),
        (["--save", "{file}/out"], "out: cannot be written: Not a directory"),
    ],
)
def test_wrong_usage(configs, photos, capsys, args, message):
    args = [arg.format(file=photos / "a.png") for arg in args]
    assert predict(configs, photos / "a.png", *args, model="classification") == 2
    assert message in capsys.readouterr().err


def test_an_empty_folder(configs, tmp_path, capsys):
    assert predict(configs, tmp_path) == 2
    assert "the folder has no pictures and no payloads" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        predict(configs, tmp_path, "--threshold", "1.5")


def test_a_full_disk_is_said(configs, photos, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"

    def full(*_args, **_kwargs):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Image.Image, "save", full)
    assert predict(configs, photos / "a.png", "--save", out) == 1
    assert "a.png: cannot be written: No space left on device" in capsys.readouterr().err
    assert not list(out.iterdir())


def test_a_folder_is_read_by_name(photos):
    assert [file.name for file in find_files([photos])] == ["a.png", "b.jpg", "c.png"]
    assert find_files([photos / "notes.txt"]) == [photos / "notes.txt"]


def test_what_is_drawn():
    grey = Image.new("RGB", (60, 40), (100, 100, 100))
    labels = np.zeros((40, 60), np.uint8)
    labels[:20, :30] = 2
    box = Found(1, "thing", 0.9, (30.0, 20.0, 50.0, 38.0))
    mask = Mask(labels, ("background", "a", "b"))
    plain = drawn(grey, Answers(), (40, 60))
    assert plain.size == (60 * 8, 40 * 8)
    picture = drawn(
        grey, Answers((Found(3, None, 0.5),), (box,), mask), (40, 60), caption="9 bytes"
    )
    pixels_of = np.asarray(picture)
    assert not np.array_equal(pixels_of[8, 8], [100, 100, 100])  # the mask
    assert np.array_equal(pixels_of[8, 300], [100, 100, 100])  # background is left alone
    assert tuple(pixels_of[38 * 8, 40 * 8]) == color_of(1)  # the box's lower edge
    assert picture.height > 40 * 8  # two lines below
    hidden = drawn(grey, Answers(objects=(box,)), (40, 60), threshold=0.95)
    assert np.array_equal(np.asarray(hidden), np.asarray(plain))
    assert len({color_of(n) for n in range(91)}) > 85
    assert drawn(None, Answers(), (40, 60)).getpixel((0, 0)) == (128, 128, 128)
