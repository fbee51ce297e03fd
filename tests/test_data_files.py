"""ImageFolder, VOCSegmentation and the reading of image files."""

import numpy as np
import pytest
from PIL import Image

from ladon.data.folder import ImageFolder
from ladon.data.images import open_image, open_mask, read_size
from ladon.data.voc import VOCSegmentation
from ladon.errors import DataError


def noise(height=12, width=16):
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8))


@pytest.fixture
def folder(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "train" / name).mkdir(parents=True)
        noise().save(tmp_path / "train" / name / "1.jpg")
    return tmp_path / "train"


@pytest.fixture
def voc(tmp_path):
    base = tmp_path / "VOCdevkit" / "VOC2012"
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (base / name).mkdir(parents=True)
    for name, value in (("a", 20), ("b", 255)):
        noise().save(base / "JPEGImages" / f"{name}.jpg")
        ids = np.zeros((12, 16), np.uint8)
        ids[3, 4] = value
        mask = Image.fromarray(ids)
        mask.putpalette([7] * 768)
        mask.save(base / "SegmentationClass" / f"{name}.png")
    (base / "ImageSets" / "Segmentation" / "train.txt").write_text("b\na\n\n")
    return base


def save_mask(voc, value=0, size=(16, 12), mode="L"):
    Image.new(mode, size, value).save(voc / "SegmentationClass" / "a.png")


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


@pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_what_is_no_image_is_named(tmp_path, content):
    path = tmp_path / "x.png"
    path.write_bytes(content)
    for read in (open_image, open_mask, read_size):
        with pytest.raises(DataError, match=r"cannot read (image|mask) .*x.png: "):
            read(path)


def test_grey_images_become_rgb_and_missing_ones_are_named(tmp_path):
    Image.new("L", (3, 2), 9).save(tmp_path / "grey.png")
    assert open_image(tmp_path / "grey.png").getpixel((0, 0)) == (9, 9, 9)
    assert read_size(tmp_path / "grey.png") == (2, 3)
    with pytest.raises(DataError, match="there is no such file"):
        open_image(tmp_path / "gone.png")


def test_voc_keeps_the_list_order_and_mask_ids(voc):
    dataset = VOCSegmentation(voc.parents[1])
    assert len(dataset) == 2
    image, mask = dataset[1]
    assert (image.mode, image.size) == ("RGB", (16, 12))
    assert np.asarray(mask)[3, 4] == 20
    assert np.asarray(dataset[0][1])[3, 4] == 255


def test_voc_does_not_download_what_is_in_place(voc, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("downloaded")

    monkeypatch.setattr("torchvision.datasets.voc.download_and_extract_archive", refuse)
    assert len(VOCSegmentation(voc.parents[1], year=2012, download=True)) == 2
    with pytest.raises(AssertionError, match="downloaded"):
        VOCSegmentation(voc.parents[1] / "elsewhere", download=True)


def test_voc_applies_joint_transforms(voc):
    dataset = VOCSegmentation(
        voc.parents[1], transforms=lambda image, mask: (image.size, mask.size)
    )
    assert dataset[0] == ((16, 12), (16, 12))


def test_voc_names_missing_folders_and_lists(voc, tmp_path):
    with pytest.raises(DataError, match=r"nowhere/VOCdevkit/VOC2012 does not exist"):
        VOCSegmentation(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"Segmentation/val.txt does not exist"):
        VOCSegmentation(tmp_path, image_set="val")
    with pytest.raises(DataError, match="no year '1999'"):
        VOCSegmentation(tmp_path, year="1999")
    (voc / "ImageSets" / "Segmentation" / "val.txt").write_text("\n")
    with pytest.raises(DataError, match=r"val.txt names no images"):
        VOCSegmentation(tmp_path, image_set="val")
    (voc / "SegmentationClass" / "a.png").unlink()
    with pytest.raises(DataError, match=r"SegmentationClass/a.png does not exist \(1 of 2 files"):
        VOCSegmentation(tmp_path)


def test_voc_refuses_class_ids_out_of_range(voc, tmp_path):
    assert VOCSegmentation(tmp_path)[1]
    with pytest.raises(DataError, match=r"a.png holds class id 20; allowed are 0 to 10 and 255"):
        VOCSegmentation(tmp_path, num_classes=11)[1]
    save_mask(voc, 21)
    with pytest.raises(DataError, match="holds class id 21; allowed are 0 to 20"):
        VOCSegmentation(tmp_path)[1]
    save_mask(voc, 254)
    with pytest.raises(DataError, match="holds class id 254"):
        VOCSegmentation(tmp_path)[1]


def test_voc_refuses_masks_of_another_size_or_mode(voc, tmp_path):
    save_mask(voc, size=(12, 16))
    with pytest.raises(DataError, match=r"a.png is 12x16 pixels but its image is 16x12"):
        VOCSegmentation(tmp_path)[1]
    save_mask(voc, value=(0, 0, 0), mode="RGB")
    with pytest.raises(DataError, match=r"a.png has mode RGB"):
        VOCSegmentation(tmp_path)[1]
