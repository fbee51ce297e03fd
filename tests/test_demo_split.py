"""`make demo-split`: its steps that need no other environment; all of them run with the demo."""

from __future__ import annotations

import json

import pytest
from PIL import Image
from split_models import pixels, write_models

import ladon
from ladon.commands.demo_split import main
from ladon.demo_split import compare, first_images
from ladon.errors import UsageError


def test_without_the_demos_models_it_says_what_to_run(tmp_path, monkeypatch, capsys):
    assert main(["--data_root", str(tmp_path)]) == 2
    assert "run make demo first" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    assert main([]) == 2
    assert "configs/digit_scenes: no such folder: run this in a checkout's root" in (
        capsys.readouterr().err
    )


def test_the_first_scenes_are_those_of_the_lowest_numbers(tmp_path):
    for name in ("b/1.png", "a/2.png", "a/0.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.name for path in first_images(tmp_path, 2)] == ["0.png", "1.png"]
    with pytest.raises(UsageError, match="has 3 scenes, not 4: run make demo first"):
        first_images(tmp_path, 4)


def test_an_answer_that_differs_is_found_and_all_are_drawn(tmp_path):
    config = write_models(tmp_path)["ladon"]
    rows = []
    with ladon.load(config) as model:
        for number in range(2):
            image = tmp_path / f"{number}.png"
            Image.fromarray(pixels(seed=number)).save(image)
            payload = model.encode(image)
            (tmp_path / f"{number}.ladon").write_bytes(payload.to_bytes())
            answers = json.loads(json.dumps(model.answer(payload).to_plain()))
            rows.append({"image": str(image), "answers": answers})
    found = compare(config, rows, tmp_path, tmp_path / "pictures")
    assert (found.num_equal, found.different) == (2, ())
    rows[1]["answers"]["classification"][0]["score"] += 1e-12
    found = compare(config, rows, tmp_path, tmp_path / "pictures")
    assert (found.num_equal, found.different) == (1, ("1.png",))
    assert {path.name for path in (tmp_path / "pictures").glob("*.png")} == {"0.png", "1.png"}
