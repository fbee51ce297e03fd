import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from ladon.data.coco import coco_dataset
from ladon.data.digit_drawing import Scene, load_material
from ladon.data.digits import make_digit_scenes, voc_palette
from ladon.data.folder import ImageFolder
from ladon.data.samplers import create_aspect_ratio_groups
from ladon.data.voc import VOCSegmentation
from ladon.errors import DataError

COUNTS = {"num_train": 20, "num_val": 10}


def digests(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return make_digit_scenes(tmp_path_factory.mktemp("data"), **COUNTS)


def test_the_same_seed_gives_the_same_bytes(scenes, tmp_path):
    again = make_digit_scenes(tmp_path / "again", **COUNTS)
    assert digests(again) == digests(scenes)
    other = make_digit_scenes(tmp_path / "other", **COUNTS, seed=1)
    assert (other / "train/0/00000.png").read_bytes() != (scenes / "train/0/00000.png").read_bytes()


def test_a_scene_does_not_depend_on_how_many_there_are(scenes, tmp_path):
    fewer = digests(make_digit_scenes(tmp_path, num_train=3, num_val=2))
    same = {name for name, digest in fewer.items() if digests(scenes).get(name) == digest}
    assert {name for name in fewer if name.endswith((".png", ".jpg"))} <= same


def test_hard_scenes_are_others_with_more_contrast_behind(scenes, tmp_path):
    hard = make_digit_scenes(tmp_path, **COUNTS, style="hard")
    assert make_digit_scenes(tmp_path, **COUNTS, style="hard") == hard
    spread = [
        np.mean([np.asarray(Image.open(f)).std(axis=(0, 1)) for f in root.rglob("train/*/*.png")])
        for root in (scenes, hard)
    ]
    assert spread[1] > spread[0]
    with pytest.raises(DataError, match="digit scenes are easy or hard, not soft"):
        make_digit_scenes(tmp_path, **COUNTS, style="soft")
    easy = make_digit_scenes(tmp_path, **COUNTS)  # another style's are made anew
    assert digests(easy) == digests(scenes)


def test_train_and_val_share_no_digit_and_no_photograph():
    train, val = (load_material(split, seed=0) for split in ("train", "val"))
    rows = [np.concatenate(material.sources).tolist() for material in (train, val)]
    assert not set(rows[0]) & set(rows[1])
    assert len(rows[0]) + len(rows[1]) == 1797
    assert 0.15 < len(rows[1]) / 1797 < 0.25
    tiles = [{tile.tobytes() for tile in material.photographs} for material in (train, val)]
    assert [len(of_split) for of_split in tiles] == [24, 6]
    assert not tiles[0] & tiles[1]


def test_the_three_layouts_show_the_same_scenes(scenes):
    for split, count in (("train", 20), ("val", 10)):
        folder = ImageFolder(scenes / split)
        coco = coco_dataset(scenes, scenes / "annotations" / f"instances_{split}.json", True)
        voc = VOCSegmentation(scenes, image_set=split, num_classes=11)
        assert len(folder) == len(coco) == len(voc) == count
        assert folder.classes == [str(digit) for digit in range(10)]
        assert coco.sizes == [(96, 96)] * count
        assert set(create_aspect_ratio_groups(coco)) == {4}
        labels = {path.rsplit("/", 1)[1]: label for path, label in folder.samples}
        for index in range(count):
            image, target = coco[index]
            picture, mask = voc[index]
            difference = np.asarray(picture) / 255 - image.permute(1, 2, 0).numpy()
            assert np.abs(difference).mean() < 0.03
            assert 1 <= len(target["boxes"]) <= 3
            largest = int(target["area"].argmax())
            assert int(target["labels"][largest]) - 1 == labels[f"{index:05d}.png"]
            ids = set(np.unique(mask)) - {0, 255}
            assert ids == set(target["labels"].tolist())


def test_boxes_and_areas_are_those_of_the_masks(scenes):
    dataset = coco_dataset(scenes, scenes / "annotations" / "instances_train.json", False)
    voc = VOCSegmentation(scenes, image_set="train", num_classes=11)
    for index, image_id in enumerate(dataset.ids):
        ids = np.array(voc[index][1])
        painted = np.zeros((96, 96), bool)
        for annotation in dataset.coco.imgToAnns[image_id]:
            mask = dataset.coco.annToMask(annotation).astype(bool)
            rows, columns = np.nonzero(mask)
            x, y, w, h = annotation["bbox"]
            assert (x, y) == (columns.min(), rows.min())
            assert (x + w, y + h) == (columns.max() + 1, rows.max() + 1)
            assert annotation["area"] == mask.sum() > 20
            assert (ids[mask] == annotation["category_id"]).all()
            assert not (painted & mask).any()
            painted |= mask
        assert np.array_equal(painted, (ids > 0) & (ids < 255))
    numbers = [annotation["id"] for annotation in dataset.coco.dataset["annotations"]]
    assert numbers == list(range(1, len(numbers) + 1))


def test_image_ids_are_unique_over_both_splits(scenes):
    ids = []
    for split in ("train", "val"):
        content = json.loads((scenes / "annotations" / f"instances_{split}.json").read_text())
        ids += [image["id"] for image in content["images"]]
        assert [category["id"] for category in content["categories"]] == list(range(1, 11))
    assert ids == list(range(1, 31))


def test_digits_stand_out_from_the_background(scenes):
    voc = VOCSegmentation(scenes, image_set="val", num_classes=11)
    for image, mask in (voc[index] for index in range(len(voc))):
        grey, ids = np.asarray(image.convert("L"), float), np.asarray(mask)
        digit = np.bincount(ids[(ids > 0) & (ids < 255)]).argmax()
        assert abs(np.median(grey[ids == digit]) - np.median(grey[ids == 0])) > 50


def test_class_masks_have_a_one_pixel_outline():
    instances = np.full((6, 6), -1)
    instances[2:4, 2:4] = 0
    instances[2:4, 4] = 1
    mask = Scene(np.zeros((6, 6, 3), np.uint8), instances, [7, 0]).class_mask
    expected = np.zeros((6, 6), np.uint8)
    expected[1:5, 1:6] = 255
    expected[2:4, 2:4] = 8
    expected[2:4, 4] = 1
    assert np.array_equal(mask, expected)


def test_masks_carry_the_palette_of_pascal_voc(scenes):
    palette = voc_palette()
    # VOC2012 development kit: aeroplane, bicycle, tv monitor, and the outline's cream.
    assert [palette[3 * i : 3 * i + 3] for i in (1, 2, 20, 255)] == [
        [128, 0, 0],
        [0, 128, 0],
        [0, 64, 128],
        [224, 224, 192],
    ]
    path = next((scenes / "VOCdevkit" / "VOC2012" / "SegmentationClass").iterdir())
    with Image.open(path) as mask:
        assert mask.mode == "P"
        assert mask.getpalette()[3:6] == [128, 0, 0]


def test_an_equal_set_is_kept_and_a_differing_or_partial_one_rebuilt(tmp_path):
    calls = []

    def make(**kwargs):
        calls.clear()
        sizes = {"num_train": 2, "num_val": 1, "size": 32, **kwargs}
        return make_digit_scenes(tmp_path, **sizes, progress=lambda *at: calls.append(at))

    folder = make()
    assert calls == [(1, 3), (2, 3), (3, 3)]
    make()
    assert calls == []
    (folder / "train" / "1" / "00001.png").unlink()
    make()
    assert len(calls) == 3
    make(size=40)
    assert len(calls) == 3
    (folder / "meta.json").write_text("{")
    make(size=40)
    assert len(calls) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["digit_scenes"]


def test_an_interruption_leaves_what_was_there(tmp_path):
    def interrupt(done, total):
        raise KeyboardInterrupt

    folder = make_digit_scenes(tmp_path, num_train=2, num_val=1, size=32)
    before = digests(folder)
    with pytest.raises(KeyboardInterrupt):
        make_digit_scenes(tmp_path, num_train=3, num_val=1, size=32, progress=interrupt)
    assert digests(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["digit_scenes"]


def test_bad_arguments_and_places_are_refused(tmp_path):
    with pytest.raises(DataError, match="got 1280 and 320 scenes of 8 pixels, seed 0"):
        make_digit_scenes(tmp_path, size=8)
    (tmp_path / "digit_scenes").mkdir()
    (tmp_path / "digit_scenes" / "thesis.tex").touch()
    with pytest.raises(DataError, match=r"holds 'thesis.tex', which is no part"):
        make_digit_scenes(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "digit_scenes").touch()
    with pytest.raises(DataError, match="is a file"):
        make_digit_scenes(tmp_path / "other")
    with pytest.raises(DataError, match="cannot write to"):
        make_digit_scenes(tmp_path / "digit_scenes" / "thesis.tex")
