"""VOCSegmentation: images and masks in the list's order, and what is wrong with them."""

import numpy as np
import pytest
from pictures import noise
from PIL import Image

from ladon.data.class_names import class_names
from ladon.data.voc import VOC_CLASSES, VOCSegmentation
from ladon.errors import DataError


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


def test_voc_names_the_classes_that_it_is_given(voc, tmp_path):
    assert class_names(VOCSegmentation(tmp_path)) == list(VOC_CLASSES)
    assert class_names(VOCSegmentation(tmp_path, num_classes=11)) is None
    own = [f"class {n}" for n in range(22)]
    dataset = VOCSegmentation(tmp_path, class_names=own)
    assert (class_names(dataset), dataset.num_classes) == (own, 22)
    assert VOCSegmentation(tmp_path, num_classes=22, class_names=own).class_names == own
    expected = "class_names has 22 names, but num_classes is 21; leave num_classes out or make them"
    with pytest.raises(DataError, match=expected):
        VOCSegmentation(tmp_path, num_classes=21, class_names=own)
