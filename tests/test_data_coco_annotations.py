"""COCO files as flat arrays: the same by msgspec as by json, and as in pycocotools' dicts."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch
from large_inputs import write_annotations
from PIL import Image
from pycocotools import mask as coco_mask

from ladon.data.coco import COCO_IDS_OF_VOC, coco_dataset, load_coco, read_annotations
from ladon.data.coco_annotations import Annotations, Texts, annotations_of, columns_of
from ladon.data.coco_parsing import fast_columns
from ladon.metrics.coco import CocoMetric
from ladon.tasks import TASKS

SIZE = HEIGHT, WIDTH = 30, 40
PAINTED = COCO_IDS_OF_VOC[1:]
CATEGORIES = [1, 3, 5, 8, 20, 90]  # 8 and 90 are none of VOC's


def random_content(seed, images=9, objects=40):
    """Odd ids, crowds, boxes beyond the image, whole numbers, fields left out."""
    rng = np.random.default_rng(seed)
    ids = [int(i) for i in rng.permutation(2**40 + np.arange(-images, images))[:images]]
    ids[0], ids[1] = 0, -(2**63)
    entries = [
        {"id": i, "file_name": f"é {n}.png", "height": HEIGHT, "width": WIDTH}
        for n, i in enumerate(ids)
    ]
    del entries[2]["height"], entries[3]["height"], entries[3]["width"]
    annotations = []
    for number in rng.permutation(objects) - 5:
        x, y = (rng.random(2) * (WIDTH, HEIGHT)).round(2).tolist()
        w, h = (rng.random(2) * (WIDTH, HEIGHT)).round(3).tolist()
        crowd, kind = int(rng.random() < 0.2), rng.integers(5)
        shape = [(rng.random(2 * int(rng.integers(3, 7))) * HEIGHT).round(2).tolist()]
        if kind == 0:
            mask = np.asfortranarray(rng.random(SIZE) < 0.3).astype(np.uint8)
            shape = coco_mask.encode(mask)
            shape = {"size": [HEIGHT, WIDTH], "counts": shape["counts"].decode()}
        entry = {
            "id": int(number),
            "image_id": ids[int(rng.integers(images - 1))],  # one has none
            "category_id": CATEGORIES[int(rng.integers(len(CATEGORIES)))],
            "bbox": [int(x), int(y), int(w), h] if kind == 1 else [x, y, w, h],
            "area": round(w * h) if kind == 2 else w * h,
            "iscrowd": crowd,
            "segmentation": shape,
            "attributes": {"bbox": [], "note": 'a "}, {" ü'},
        }
        if kind == 3:
            del entry["area"], entry["iscrowd"]
        annotations.append(entry)
    categories = [{"id": n, "name": f"name {n}", "supercategory": "x"} for n in CATEGORIES]
    return {"images": entries, "annotations": annotations, "categories": categories}


def written(folder, content):
    path = folder / "a.json"
    path.write_text(
        content if isinstance(content, str) else json.dumps(content, ensure_ascii=False),
        encoding="utf-8",
    )
    return path


def columns_are_equal(found, expected):
    for name, column in vars(expected).items():
        own = getattr(found, name)
        if isinstance(column, np.ndarray):
            assert own.tolist() == column.tolist(), name
        elif name == "shapes" and column is not None:
            # of the same JSON, one as it is in the file and one written anew
            assert list(map(parsed, own)) == list(map(parsed, column))
        else:
            assert (own is None) == (column is None), name
            assert own is None or list(own) == list(column), name


def parsed(text):
    return json.loads(text) if text else None


@pytest.mark.parametrize("painted", [None, PAINTED])
@pytest.mark.parametrize("seed", range(4))
def test_both_ways_of_reading_are_equal(tmp_path, seed, painted):
    path = written(tmp_path, random_content(seed))
    fast = fast_columns(path, painted)
    assert fast is not None
    columns_are_equal(fast, columns_of(load_coco(path).dataset, painted))


def test_a_file_like_cocos_own_is_read_the_fast_way(tmp_path):
    path = tmp_path / "a.json"
    write_annotations(path, images=40, boxes=300)
    found = fast_columns(path, PAINTED)
    columns_are_equal(found, columns_of(load_coco(path).dataset, PAINTED))
    assert (len(found.image_ids), len(found.boxes)) == (40, 300)
    assert 0 < found.crowds.sum() < 30


def target_of_coco(coco, image_id):
    """A detection target as it was made of pycocotools' dicts."""
    singles = [a for a in coco.imgToAnns.get(image_id, []) if not a["iscrowd"]]
    boxes = torch.tensor([a["bbox"] for a in singles], dtype=torch.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    boxes[:, 0::2].clamp_(0, WIDTH)
    boxes[:, 1::2].clamp_(0, HEIGHT)
    kept = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    return {
        "boxes": boxes[kept],
        "labels": torch.tensor([a["category_id"] for a in singles], dtype=torch.int64)[kept],
        "image_id": torch.tensor(image_id),
        "area": torch.tensor([a["area"] for a in singles], dtype=torch.float32)[kept],
        "iscrowd": torch.zeros(int(kept.sum()), dtype=torch.int64),
    }


def mask_of_coco(coco, image_id):
    classes, covered = np.zeros(SIZE, np.uint8), np.zeros(SIZE, int)
    coco.imgs[image_id].update(height=HEIGHT, width=WIDTH)
    for a in coco.imgToAnns.get(image_id, []):
        if a["category_id"] in PAINTED:
            mask = coco.annToMask(a).astype(bool)
            classes[mask] = COCO_IDS_OF_VOC.index(a["category_id"])
            covered += mask
    classes[covered > 1] = 255
    return classes


@pytest.mark.parametrize("annotated_only", [False, True])
def test_samples_and_scores_are_those_of_pycocotools_dicts(tmp_path, annotated_only):
    content = random_content(7)
    path = written(tmp_path, content)
    for entry in content["images"]:
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / entry["file_name"])
    coco = load_coco(path)
    ids = sorted(
        i
        for i, anns in ((i, coco.imgToAnns.get(i, [])) for i in coco.imgs)
        if not annotated_only or any(min(a["bbox"][2:]) > 1 for a in anns)
    )
    dataset = coco_dataset(tmp_path, path, annotated_only)
    assert dataset.ids == ids
    assert len(ids) == len(coco.imgs) - annotated_only
    targets = [target for _, target in dataset]
    for image_id, target in zip(ids, targets, strict=True):
        expected = target_of_coco(coco, image_id)
        assert target.keys() == expected.keys()
        for key, value in expected.items():
            assert target[key].dtype == value.dtype, key
            assert torch.equal(target[key], value), key
    masks = coco_dataset(tmp_path, path, annotated_only, is_segment=True)
    for (_, mask), image_id in zip(masks, ids, strict=True):
        assert np.array_equal(mask, mask_of_coco(coco, image_id))
    generator = torch.Generator().manual_seed(0)
    metrics = TASKS["object_detection"].metric(dataset, {}), CocoMetric(coco)
    assert "coco" not in vars(dataset)  # nothing so far has read the whole file
    for target in targets:
        noise = torch.rand(target["boxes"].shape, generator=generator)
        scores = torch.rand(len(noise), generator=generator)
        found = {"boxes": target["boxes"] + noise, "labels": target["labels"], "scores": scores}
        for metric in metrics:
            metric.update([found], [target])
    values = [metric.compute([metric.state()]) for metric in metrics]
    assert values[0] == values[1]
    assert 0 < values[0]["AP"] < 1
    assert metrics[0].lines(values[0]) == metrics[1].lines(values[1])


ODD = {
    "NaN in what nobody reads": ('"note": 1', '"note": NaN'),
    "half a surrogate pair": ('"note": 1', '"note": "\\ud800"'),
    "an annotation's id beyond int64": ('id": 71', f'id": {2**63}'),
    "an image's id beyond int64": ('id": 5', f'id": {10**30}'),
    "a category's id beyond int64": ('id": 1', f'id": {10**30}'),
    "a wrong field that another replaces": ('"iscrowd": 0', '"iscrowd": null, "iscrowd": 0'),
    "a byte order mark": ('{"images"', '\ufeff{"images"'),
}


def small_content():
    return {
        "images": [{"id": 5, "file_name": "a.png", "note": 1}],
        "annotations": [
            {"id": 71, "image_id": 5, "category_id": 1, "bbox": [1, 2, 3, 4], "iscrowd": 0}
        ],
        "categories": [{"id": 1, "name": "x"}],
    }


@pytest.mark.parametrize(("usual", "odd"), ODD.values(), ids=ODD)
def test_what_is_odd_but_right_is_read_the_slow_way(tmp_path, usual, odd):
    text = json.dumps(small_content())
    assert fast_columns(written(tmp_path, text), None) is not None
    path = written(tmp_path, text.replace(usual, odd))
    assert fast_columns(path, None) is None
    assert len(read_annotations(path)) == 1


@pytest.mark.parametrize("digits", [4301, 4400, 90_000])
def test_more_digits_than_python_takes_are_left_to_it(tmp_path, digits):
    text = json.dumps(small_content()).replace('"note": 1', '"note": ' + "7" * digits)
    assert fast_columns(written(tmp_path, text), None) is None


def test_damaged_text_is_left_to_python(tmp_path):
    path = written(tmp_path, json.dumps(small_content()).replace('"note": 1', '"note": "\ue000"'))
    assert fast_columns(path, None) is not None
    path.write_bytes(path.read_bytes().replace("\ue000".encode(), b"\xed\xa0\x80"))
    assert fast_columns(path, None) is None


def test_annotations_survive_a_new_process(tmp_path):
    found = Annotations(fast_columns(written(tmp_path, random_content(1)), PAINTED))
    again = pickle.loads(pickle.dumps(found))
    for image_id in found.image_ids.tolist():
        assert again.objects(image_id) == found.objects(image_id)
        assert again.file_name(image_id) == found.file_name(image_id)
    assert list(again.shapes()) == list(found.shapes())
    assert 2**39 not in again
    assert 2**63 - 1 not in again


def test_who_asked_for_the_whole_file_is_evaluated_with_it(tmp_path):
    path = written(tmp_path, small_content())
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    dataset = coco_dataset(tmp_path, path, False)
    assert annotations_of(dataset) is dataset.annotations
    dataset.coco.anns[71]["bbox"] = [0, 0, 5, 5]
    assert annotations_of(dataset) is dataset.coco
    assert annotations_of(object()) is None


def test_texts():
    texts = Texts.of([b"a", b"", b"bc"])
    assert list(texts) == [b"a", b"", b"bc"]
    assert len(Texts.of([])) == 0
