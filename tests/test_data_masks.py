"""Images and masks of the same names in two folders, and what is wrong with them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from pictures import noise
from PIL import Image
from tiny import FAMILIES
from torchvision import transforms as tv

from ladon.data.class_names import class_names
from ladon.data.device_input import split_input
from ladon.data.masks import MaskFolder
from ladon.data.samples import sample_path
from ladon.data.transforms import CustomCompose, CustomToTensor
from ladon.errors import DataError
from ladon.models.checkpoint import read_checkpoint

NAMES = ["background", "cat", "dog", "elk"]
SEGMENTER = """
_base_: {base}
beta: 0.32
data_root: {data}
backbone_ckpt: {backbone}
models: {{model: {{dst_ckpt: {folder}/masks.pt}}}}
train: {{num_epochs: 1}}
datasets:
  _delete_: true
  digit_scenes/train: !import_call
    key: ladon.data.masks.MaskFolder
    init:
      kwargs:
        images: &images ${{data_root}}/digit_scenes/VOCdevkit/VOC2012/JPEGImages
        masks: &masks ${{data_root}}/digit_scenes/VOCdevkit/VOC2012/SegmentationClass
        class_names: &names [background, '0', '1', '2', '3', '4', '5', '6', '7', '8', '9']
        list_file: ${{data_root}}/digit_scenes/VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt
        transforms: &transforms !import_call
          key: ladon.data.transforms.CustomCompose
          init:
            kwargs:
              transforms:
                - !import_call {{key: ladon.data.transforms.CustomToTensor}}
                - !import_call
                  key: ladon.data.transforms.CustomNormalize
                  init: {{kwargs: {{mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}}}}
  digit_scenes/val: !import_call
    key: ladon.data.masks.MaskFolder
    init:
      kwargs:
        images: *images
        masks: *masks
        class_names: *names
        list_file: ${{data_root}}/digit_scenes/VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt
        transforms: *transforms
"""


@pytest.fixture
def folders(tmp_path):
    """Images a.jpg and deep/b.png, whose masks have class 3 and 255 at row 3, column 4."""
    for name, suffix, value in (("deep/b", ".png", 255), ("a", ".JPG", 3)):
        for folder in ("images", "masks"):
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
        noise().save(tmp_path / "images" / (name + suffix))
        ids = np.zeros((12, 16), np.uint8)
        ids[3, 4] = value
        Image.fromarray(ids).save(tmp_path / "masks" / f"{name}.png")
    (tmp_path / "images" / "notes.txt").write_text("x")
    (tmp_path / "images" / ".hidden.png").write_text("x")
    return tmp_path


def folder_of(root, names=NAMES, **options):
    return MaskFolder(root / "images", root / "masks", names, **options)


def test_pairs_come_in_the_order_of_their_names(folders):
    dataset = folder_of(folders)
    assert len(dataset) == 2
    assert [sample_path(dataset, n) for n in (0, 1)] == [
        str(folders / "images" / "a.JPG"),
        str(folders / "images" / "deep" / "b.png"),
    ]
    image, mask = dataset[0]
    assert (image.mode, image.size, np.asarray(mask)[3, 4]) == ("RGB", (16, 12), 3)
    assert np.asarray(dataset[1][1])[3, 4] == 255
    assert (dataset.num_classes, class_names(dataset)) == (4, NAMES)


def test_a_list_chooses(folders):
    (folders / "l.txt").write_text("deep/b\n\n")
    dataset = folder_of(folders, list_file=folders / "l.txt")
    assert dataset.images == [str(folders / "images" / "deep" / "b.png")]
    (folders / "l.txt").write_text("deep/b\nb\n")
    with pytest.raises(
        DataError, match=r"images/b does not exist \(1 of 2 images that .*l.txt nam"
    ):
        folder_of(folders, list_file=folders / "l.txt")
    (folders / "l.txt").write_text("\n")
    with pytest.raises(DataError, match=r"l.txt names no images"):
        folder_of(folders, list_file=folders / "l.txt")
    with pytest.raises(DataError, match=r"cannot read .*none.txt: No such file"):
        folder_of(folders, list_file=folders / "none.txt")


def test_transforms_get_both_and_may_end_on_the_device(folders):
    compose = CustomCompose([CustomToTensor()])
    dataset = folder_of(folders, transforms=compose)
    image, mask = dataset[0]
    assert (tuple(image.shape), tuple(mask.shape), int(mask.max())) == ((3, 12, 16), (12, 16), 3)
    as_bytes, finish = split_input(dataset)
    assert (finish(as_bytes[0][0]) == image).all()
    assert split_input(folder_of(folders, transforms=tv.Compose([])))[1] is None


def test_what_is_missing_is_named(folders):
    (folders / "masks" / "deep" / "b.png").unlink()
    expected = (
        r"masks/deep/b.png does not exist \(1 of 2 masks of the images in .*images are missing"
    )
    with pytest.raises(DataError, match=expected):
        folder_of(folders)
    for missing in ("images", "masks"):
        (folders / missing).rename(folders / "away")
        with pytest.raises(
            DataError, match=f"folder of {missing} .*{missing} does not exist; put "
        ):
            folder_of(folders)
        (folders / "away").rename(folders / missing)
    (folders / "empty").mkdir()
    with pytest.raises(DataError, match="empty holds none"):
        MaskFolder(folders / "empty", folders / "masks", NAMES)
    noise().save(folders / "images" / "a.png")
    with pytest.raises(DataError, match=r"a.JPG and .*a.png would share a mask; rename one"):
        folder_of(folders)


def test_masks_are_checked_when_they_are_read(folders):
    dataset = folder_of(folders, NAMES[:3])
    with pytest.raises(DataError, match=r"a.png holds class id 3; allowed are 0 to 2 and 255"):
        dataset[0]
    Image.new("L", (12, 16)).save(folders / "masks" / "a.png")
    with pytest.raises(DataError, match=r"a.png is 12x16 pixels but its image is 16x12"):
        dataset[0]
    Image.new("RGB", (16, 12)).save(folders / "masks" / "a.png")
    with pytest.raises(DataError, match=r"a.png has mode RGB"):
        dataset[0]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], r"class_names is \[\]; give the list of names by class id"),
        ("cat", "class_names is 'cat'; give the list"),
        (4, "class_names is 4; give the list"),
        (["a", 1], r"class_names\[1\] is 1, not text; put the name into quotes"),
        (["a", False], r"class_names\[1\] is False, not text"),
        (["a", ""], r"class_names\[1\] is '', not text"),
        (["a", "b", "a"], r"class_names\[2\] repeats 'a'; give each class its own"),
        ([str(n) for n in range(256)], "256 names, but masks hold class ids 0 to 254"),
    ],
)
def test_names_are_checked(folders, names, message):
    with pytest.raises(DataError, match=message):
        folder_of(folders, names)


@pytest.mark.slow
def test_a_segmenter_trained_on_them_is_that_of_voc(own_lab, tmp_path, refused):
    """The same images, masks, order and names."""
    assert own_lab.run("segmentation") == 0
    config = tmp_path / "masks.yaml"
    text = SEGMENTER.format(
        base=FAMILIES / "ladon" / "_base_" / "segmentation.yaml",
        data=own_lab.data_root,
        backbone=own_lab.checkpoint("classification"),
        folder=tmp_path,
    )
    config.write_text(text)
    file = tmp_path / "found.jsonl"
    assert own_lab.run("segmentation", "--predictions", str(file), config=config) == 0
    found, expected = (
        own_lab.metrics(log)["models"]["student"] for log in ("masks", "segmentation")
    )
    assert found["metrics"] == expected["metrics"]
    voc = read_checkpoint(own_lab.checkpoint("segmentation"), "here")
    named = read_checkpoint(tmp_path / "masks.pt", "here")
    assert voc.classes == named.classes == ["background", *"0123456789"]
    row = json.loads(file.read_text().splitlines()[0])
    assert row["classes"][0].keys() == {"label", "class", "pixels"}
    assert all(c["class"] == named.classes[c["label"]] for c in row["classes"])
    config.write_text(text.replace("'3', '4'", "'4', '3'"))
    assert refused("segmentation", "-test_only", config=config) == (
        f"{own_lab.data_root}/digit_scenes/VOCdevkit/VOC2012/JPEGImages: class 4 is '4', but '3' "
        f"in the checkpoint {tmp_path}/masks.pt; found are 'background', '0', '1', '2', … (11 in "
        "all), known are 'background', '0', '1', '2', … (11 in all): use a dataset with the same "
        "classes"
    )
