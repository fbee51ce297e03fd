import json

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from ladon.data.coco import COCO_IDS_OF_VOC, coco_dataset
from ladon.errors import DataError

HEIGHT, WIDTH = 10, 12


def annotation(number, image_id, category, box, **kwargs):
    x, y, w, h = box
    corners = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    entry = {"id": number, "image_id": image_id, "category_id": category, "bbox": box}
    return {**entry, "iscrowd": 0, "area": w * h, "segmentation": corners, **kwargs}


def write(folder, annotations, num_images=3, **replaced):
    images = folder / "images"
    images.mkdir()
    entries = []
    for i in range(1, num_images + 1):
        pixels = np.full((HEIGHT, WIDTH, 3), i, np.uint8)
        pixels[:, 0] = 200
        Image.fromarray(pixels).save(images / f"{i}.png")
        entries.append({"id": i, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH})
    categories = [{"id": n, "name": f"name {n}"} for n in range(1, 100)]
    content = {"images": entries, "annotations": annotations, "categories": categories}
    path = folder / "instances.json"
    path.write_text(json.dumps({**content, **replaced}))
    return images, path


def test_detection_target_drops_crowds_and_boxes_without_extent(tmp_path):
    images, path = write(
        tmp_path,
        [
            annotation(1, 1, 18, [1, 2, 3, 4]),
            annotation(2, 1, 5, [0, 0, 5, 5], iscrowd=1),
            annotation(3, 1, 7, [2, 2, 0, 4], area=77),
            annotation(4, 1, 90, [8, 6, 10, 10], area=11),
            annotation(5, 1, 3, [WIDTH, 1, 4, 4]),
        ],
    )
    image, target = coco_dataset(images, path, False)[0]
    assert (image.dtype, tuple(image.shape)) == (torch.float32, (3, HEIGHT, WIDTH))
    assert float(image[0, 0, 1]) == pytest.approx(1 / 255)
    assert target["boxes"].tolist() == [[1, 2, 4, 6], [8, 6, 12, 10]]
    assert target["labels"].tolist() == [18, 90]
    assert target["area"].tolist() == [12, 11]
    assert target["iscrowd"].tolist() == [0, 0]
    assert target["image_id"].item() == 1
    assert target["boxes"].dtype == target["area"].dtype == torch.float32
    assert target["labels"].dtype == target["iscrowd"].dtype == torch.int64


def test_an_image_without_annotations_has_empty_boxes(tmp_path):
    images, path = write(tmp_path, [])
    _, target = coco_dataset(images, path, False)[1]
    assert target["boxes"].shape == (0, 4)
    assert target["labels"].shape == target["area"].shape == target["iscrowd"].shape == (0,)


def test_flip_mirrors_image_and_boxes(tmp_path):
    images, path = write(tmp_path, [annotation(1, 1, 18, [1, 2, 3, 4])])
    plain, _ = coco_dataset(images, path, False)[0]
    image, target = coco_dataset(images, path, False, random_horizontal_flip=1.0)[0]
    assert target["boxes"].tolist() == [[WIDTH - 4, 2, WIDTH - 1, 6]]
    assert torch.equal(image, plain.flip(-1))
    assert float(image[0, 0, -1]) == pytest.approx(200 / 255)


def test_annotated_only_needs_one_box_with_both_sides_over_a_pixel(tmp_path):
    annotations = [
        annotation(1, 1, 18, [0, 0, 1, 9]),
        annotation(2, 1, 18, [0, 0, 9, 1]),
        annotation(3, 2, 99, [0, 0, 1.5, 1.5], iscrowd=1),
    ]
    images, path = write(tmp_path, annotations)
    assert coco_dataset(images, path, True).ids == [2]
    assert coco_dataset(images, path, False).ids == [1, 2, 3]


def test_detection_transforms_get_the_pil_image_and_the_target(tmp_path):
    images, path = write(tmp_path, [annotation(1, 1, 18, [1, 2, 3, 4])])
    dataset = coco_dataset(
        images, path, False, random_horizontal_flip=1.0, transforms=lambda image, t: (image, t)
    )
    image, target = dataset[0]
    assert isinstance(image, Image.Image)
    assert target["boxes"].tolist() == [[1, 2, 4, 6]]


def test_jpeg_quality_changes_pixels_only(tmp_path):
    images, path = write(tmp_path, [annotation(1, 1, 18, [1, 2, 3, 4])])
    plain, _ = coco_dataset(images, path, False)[0]
    rough, target = coco_dataset(images, path, False, jpeg_quality=5)[0]
    assert rough.shape == plain.shape
    assert not torch.equal(rough, plain)
    assert target["boxes"].tolist() == [[1, 2, 4, 6]]


def test_voc_remap_overlaps_crowds_and_other_categories(tmp_path):
    crowd = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    crowd[8:, :] = 1
    compressed = coco_mask.encode(crowd)
    compressed["counts"] = compressed["counts"].decode()
    # Columns run first in COCO's run lengths: skip 6 columns, then 2 pixels down the 7th.
    runs = {"size": [HEIGHT, WIDTH], "counts": [6 * HEIGHT, 2, 6 * HEIGHT - 2]}
    annotations = [
        annotation(1, 1, 5, [0, 0, 4, 4]),  # aeroplane: VOC 1
        annotation(2, 1, 1, [2, 2, 4, 4]),  # person: VOC 15, over the aeroplane
        annotation(3, 1, 8, [0, 0, 12, 10]),  # truck: no VOC class
        annotation(4, 1, 72, [0, 8, 12, 2], iscrowd=1, segmentation=compressed),  # tv: VOC 20
        annotation(5, 1, 62, [6, 0, 1, 2], iscrowd=1, segmentation=runs),  # chair: VOC 9
        annotation(6, 1, 20, [0, 0, 1, 1], segmentation=[]),
    ]
    images, path = write(tmp_path, annotations)
    image, mask = coco_dataset(images, path, False, is_segment=True)[0]
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[0:4, 0:4] = 1
    expected[2:6, 2:6] = 15
    expected[2:4, 2:4] = 255
    expected[8:] = 20
    expected[0:2, 6] = 9
    assert mask.mode == "L"
    assert image.mode == "RGB"
    assert np.array_equal(mask, expected)


def test_segmentation_without_kept_instances_is_background_and_is_kept(tmp_path):
    images, path = write(tmp_path, [annotation(1, 1, 8, [0, 0, 4, 4])])
    dataset = coco_dataset(images, path, True, is_segment=True)
    assert len(dataset) == 1
    assert np.asarray(dataset[0][1]).max() == 0


def test_voc_classes_are_those_of_the_published_table():
    assert len(COCO_IDS_OF_VOC) == 21
    # e.g. VOC 12 (dog) is COCO 18, VOC 15 (person) COCO 1, VOC 19 (train) COCO 7.
    assert [COCO_IDS_OF_VOC[i] for i in (0, 1, 12, 15, 19, 20)] == [0, 5, 18, 1, 7, 72]


def test_sizes_come_from_the_json_and_what_cocoeval_needs_is_filled_in(tmp_path, capsys):
    bare = {"id": 1, "image_id": 1, "category_id": 3, "bbox": [0, 0, 4, 5]}
    images, path = write(tmp_path, [bare])
    (images / "1.png").write_bytes(b"not opened")
    dataset = coco_dataset(str(images), str(path), True)
    assert dataset.sizes == [(HEIGHT, WIDTH)]
    assert dataset.coco.anns[1]["area"] == 20
    assert dataset.coco.anns[1]["iscrowd"] == 0
    assert dataset.coco.dataset["info"] == {}
    assert capsys.readouterr().out == ""


def test_file_names_may_hold_folders(tmp_path):
    images, path = write(tmp_path, [])
    content = json.loads(path.read_text())
    for entry in content["images"]:
        entry["file_name"] = "images/" + entry["file_name"]
    path.write_text(json.dumps(content))
    assert len(coco_dataset(tmp_path, path, False)) == 3
    with pytest.raises(DataError, match=r"images/images/1.png does not exist \(3 of 3"):
        coco_dataset(images, path, False)


def test_missing_files_are_named(tmp_path):
    images, path = write(tmp_path, [])
    with pytest.raises(DataError, match=r"annotation file .*nowhere.json does not exist"):
        coco_dataset(images, tmp_path / "nowhere.json", False)
    with pytest.raises(DataError, match=r"image folder .*nowhere does not exist"):
        coco_dataset(tmp_path / "nowhere", path, False)
    (images / "2.png").unlink()
    with pytest.raises(DataError, match=r"2.png does not exist \(1 of 3 .*instances.json"):
        coco_dataset(images, path, False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not valid JSON"),
        ("[]", "has no list 'images'"),
        ('{"images": [], "annotations": []}', "has no list 'categories'"),
        ('{"images": [], "annotations": [], "categories": []}', "lists no images"),
        ('{"images": [{"id": 1}], "annotations": [], "categories": []}', r"images\[0\] lacks"),
        (
            '{"images": [{"id": "a", "file_name": "a"}], "annotations": [], "categories": []}',
            r"images\[0\] has id \"a\", not an integer",
        ),
        ("[" * 100_000, "is not valid JSON"),
        ('{"images": [' + "9" * 5000 + "]}", "is not valid JSON"),
    ],
)
def test_bad_json_is_refused(tmp_path, text, message):
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(DataError, match=f"bad.json.*{message}") as caught:
        coco_dataset(tmp_path, path, False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"size": [2, 2], "counts": [4]}, "is 2x2 pixels on an image of 12x10"),
        ([[1, 2]], "has a polygon that is no list of x, y of at least three corners"),
        (None, "is neither a list of polygons nor run lengths"),
    ],
)
def test_bad_segmentations_are_named(tmp_path, shape, message):
    images, path = write(tmp_path, [annotation(41, 1, 5, [0, 0, 4, 4], segmentation=shape)])
    with pytest.raises(DataError, match=f"instances.json.*annotation 41 {message}"):
        coco_dataset(images, path, False, is_segment=True)


def test_an_annotation_file_without_annotated_images_is_refused(tmp_path):
    images, path = write(tmp_path, [])
    with pytest.raises(DataError, match="lists no annotated images"):
        coco_dataset(images, path, True)


def test_sizes_missing_from_the_json_are_named(tmp_path):
    images, path = write(tmp_path, [], images=[{"id": 1, "file_name": "1.png"}])
    with pytest.raises(DataError, match=r"no height and width for 1.png"):
        _ = coco_dataset(images, path, False).sizes
