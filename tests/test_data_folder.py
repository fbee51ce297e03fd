"""ImageFolder: classes by name, and what is wrong with a folder."""

import pytest
from pictures import noise

from ladon.data.folder import ImageFolder
from ladon.errors import DataError


@pytest.fixture
def folder(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "train" / name).mkdir(parents=True)
        noise().save(tmp_path / "train" / name / "1.jpg")
    return tmp_path / "train"


def test_image_folder_reads_rgb_with_sorted_classes(folder):
    dataset = ImageFolder(folder)
    assert dataset.classes == ["cat", "dog"]
    image, label = dataset[1]
    assert (image.mode, image.size, label) == ("RGB", (16, 12), 1)


def test_image_folder_expands_home(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert len(ImageFolder("~/train")) == 2


def test_image_folder_names_what_is_wrong(folder):
    with pytest.raises(DataError, match=r"image folder .*nowhere does not exist"):
        ImageFolder(folder / "nowhere")
    with pytest.raises(DataError, match=r"image folder .*cat holds no class folders"):
        ImageFolder(folder / "cat")
    (folder / "emu" / "deeper").mkdir(parents=True)
    (folder / "emu" / "notes.txt").touch()
    with pytest.raises(DataError, match=r"class folder .*emu holds no images; fill it") as caught:
        ImageFolder(folder)
    assert "\n" not in str(caught.value)
    assert len(ImageFolder(folder, allow_empty=True).classes) == 3
    (folder / "gnu").mkdir()
    with pytest.raises(DataError, match=r"emu \(and 1 more like it\) holds no images"):
        ImageFolder(folder)


def test_a_truncated_image_is_named(folder):
    path = folder / "dog" / "1.jpg"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DataError, match=r"cannot read image .*dog/1.jpg: .*; replace or remove it"):
        ImageFolder(folder)[1]
