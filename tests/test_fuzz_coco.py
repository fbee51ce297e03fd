"""COCO files with fields dropped, nulled, retyped, repeated or out of range: right or refused."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from fuzzing import folder, fuzz, in_child, refusals
from hypothesis import strategies as st
from PIL import Image

from ladon.data.class_names import check_num_classes, class_names
from ladon.data.coco import coco_dataset
from ladon.metrics.coco import CocoMetric

SIDE = 24
SQUARE = [4, 4, 14, 4, 14, 14, 4, 14]


def square_mask():
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[4:14, 4:14] = 1
    return mask


def runs():
    flat = square_mask().T.reshape(-1)
    edges = np.flatnonzero(np.diff(flat, prepend=0, append=1 - flat[-1]))
    return np.diff(edges, prepend=0).tolist()


BASE: dict[str, Any] = {
    "info": {"year": 2017},
    "licenses": [],
    "images": [{"id": n, "file_name": f"{n}.png", "width": SIDE, "height": SIDE} for n in (1, 2)],
    "annotations": [
        {
            "id": number,
            "image_id": image,
            "category_id": category,
            "bbox": box,
            "area": 100,
            "iscrowd": crowd,
            "segmentation": shape,
        }
        for number, image, category, box, crowd, shape in (
            (1, 1, 5, [4, 4, 10, 10], 0, [SQUARE]),
            (2, 1, 3, [0, 0, 24.0, 12.5], 0, [[0, 0, 9, 0, 9, 9]]),
            (3, 2, 5, [4, 4, 10, 10], 0, {"size": [SIDE, SIDE], "counts": runs()}),
            (4, 2, 1, [1, 2, 20, 20], 1, {"size": [SIDE, SIDE], "counts": [SIDE * SIDE, 0]}),
        )
    ],
    "categories": [{"id": n, "name": f"name {n}", "supercategory": "x"} for n in (1, 3, 5)],
}


def places(node: Any, path: tuple = ()) -> Iterator[tuple]:
    """Every place below a node of the JSON."""
    for key, child in node.items() if isinstance(node, dict) else enumerate(node):
        yield (*path, key)
        if isinstance(child, dict | list):
            yield from places(child, (*path, key))


PLACES = list(places(BASE))
VALUES = [
    None,
    True,
    False,
    0,
    -1,
    1,
    2,
    3,
    5,
    24,
    25,
    90,
    91,
    255,
    2**31 - 1,
    2**31,
    2**53 + 1,
    2**63,
    -(2**63),
    10**400,
    -(10**400),
    0.0,
    -0.0,
    0.5,
    1e-320,
    1e9,
    1e38,
    1e39,
    1e300,
    float("nan"),
    float("inf"),
    -float("inf"),
    "",
    "0",
    "1",
    "1.png",
    "../1.png",
    "/",
    ".",
    "..",
    "a\0b",
    "\ud800",
    "é",
    "a\nb",
    "x" * 300,
    "P\\0",
    "o" * 9,
    [],
    {},
    [0],
    [1, 2, 3, 4],
    [[]],
    [None] * 4,
    {"a": 1},
    [0, 0, 0, 0],
    [SQUARE] * 2,
    {"size": [1, 1], "counts": "1"},
    [1e9] * 6,
    ["1"] * 4,
]
EDITS = st.tuples(
    st.sampled_from(PLACES),
    st.one_of(
        st.just(("drop",)),
        st.just(("repeat",)),
        st.tuples(st.just("set"), st.sampled_from(VALUES)),
        st.tuples(st.just("set"), st.integers(-3, 600) | st.floats(width=32)),
        st.tuples(st.just("as"), st.sampled_from(PLACES)),
        st.tuples(st.just("wrap"), st.sampled_from(["list", "dict", "text"])),
    ),
)


def get(node: Any, path: tuple) -> Any:
    return functools.reduce(lambda below, key: below[key], path, node)


def edited(edits: list) -> dict:
    made = copy.deepcopy(BASE)
    for (*path, key), (what, *value) in edits:
        try:
            parent, old = get(made, path), get(made, (*path, key))
            if what == "drop":
                del parent[key]
            elif what == "repeat" and isinstance(parent, list):
                parent.append(copy.deepcopy(old))
            elif what == "set":
                parent[key] = copy.deepcopy(value[0])
            elif what == "as":
                parent[key] = copy.deepcopy(get(BASE, value[0]))
            elif what == "wrap":
                forms = {"list": [old], "dict": {"x": old}, "text": json.dumps(old)}
                parent[key] = forms[value[0]]
        except (KeyError, IndexError, TypeError):  # an earlier edit took the place away
            continue
    return made


def written(content: bytes | dict) -> str:
    path = folder() / "a.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    for n in (1, 2):
        if not (folder() / f"{n}.png").exists():
            Image.new("RGB", (SIDE, SIDE)).save(folder() / f"{n}.png")
    return str(path)


def read(path: str, annotated_only: bool = False) -> dict | None:
    """All that a detector and a segmenter get of a file; None where it is refused."""
    made: dict[str, Any] = {}
    with refusals() as said:
        detection = coco_dataset(folder(), path, annotated_only)
        check_num_classes(detection, 91)
        made["names"] = class_names(detection)
        made["targets"] = [target for _, target in detection]
        made["AP"] = average_precision(detection, made["targets"])
        made["content"] = detection.coco.dataset
    if said:
        assert path in said[0] or str(folder()) in said[0]
        made = {}
    with refusals() as said:
        segmentation = coco_dataset(folder(), path, annotated_only, is_segment=True)
        masks = [np.asarray(mask) for _, mask in segmentation]
        again = [np.asarray(mask) for _, mask in segmentation]
        assert all(map(np.array_equal, masks, again))
        assert {int(v) for mask in masks for v in np.unique(mask)} <= {*range(21), 255}
        made["masks"] = masks
    return made


def average_precision(dataset: Any, targets: list[dict]) -> float:
    metric = CocoMetric(dataset.coco)
    for target in targets:
        output = {key: target[key] for key in ("boxes", "labels")}
        metric.update([output | {"scores": torch.ones(len(target["labels"]))}], [target])
    return metric.compute([metric.state()])["AP"]


def check(made: dict, content: dict) -> None:
    """What was read of a file without a refusal is what the file says."""
    if "targets" not in made:
        return
    images = sorted(content["images"], key=lambda image: image["id"])
    assert len(made["targets"]) == len(images)
    all_sound = True
    for image, target in zip(images, made["targets"], strict=True):
        boxes, labels = [], []
        for annotation in content["annotations"]:
            if annotation["image_id"] != image["id"] or annotation.get("iscrowd", 0):
                continue
            x, y, w, h = np.float32(annotation["bbox"])
            box = np.clip(np.float32([x, y, x + w, y + h]), 0, SIDE)
            is_inside = x >= 0 and y >= 0 and x + w <= SIDE and y + h <= SIDE
            all_sound &= bool(is_inside and w >= 1 and h >= 1)
            if box[2] > box[0] and box[3] > box[1]:
                boxes.append(box)
                labels.append(annotation["category_id"])
        assert np.array_equal(target["boxes"].numpy(), np.reshape(boxes, (-1, 4)))
        assert target["labels"].tolist() == labels
    singles = [a for a in content["annotations"] if not a.get("iscrowd", 0)]
    if all_sound:
        assert made["AP"] == (1.0 if singles else -1.0), made["AP"]
    else:
        assert made["AP"] == -1 or 0 <= made["AP"] <= 1


@fuzz(
    st.lists(EDITS, min_size=1, max_size=3),
    200,
    [(("images", 1, "file_name"), ("set", "a\nb"))],
)
def fields(edits):
    content = edited(edits)
    check(read(written(content)), content)
    read(written(content), annotated_only=True)


BYTES = json.dumps(BASE).encode()


def damaged(case: tuple) -> bytes:
    what, at, value = case
    if what == "cut":
        return BYTES[:at]
    if what == "flip":
        return BYTES[:at] + bytes([BYTES[at] ^ 1 << value % 8]) + BYTES[at + 1 :]
    if what == "insert":
        return BYTES[:at] + bytes([value]) + BYTES[at:]
    if what == "encode":
        return BYTES.decode().encode(("utf-16", "utf-32", "utf-8-sig", "utf-7")[value % 4])
    return BYTES[:at] + (b"[", b'{"a":', b"9", b" ")[value % 4] * 200_000 + BYTES[at:]


@fuzz(
    st.tuples(
        st.sampled_from(["cut", "flip", "flip", "insert", "encode", "many"]),
        st.integers(0, len(BYTES) - 1),
        st.integers(0, 255),
    ),
    150,
)
def text(case):
    content = damaged(case)
    made = read(written(content))
    if "targets" in made:
        check(made, json.loads(content.decode("utf-8-sig")))


def sound() -> dict:
    made = read(written(BASE))
    assert made.keys() == {"names", "targets", "AP", "content", "masks"}
    return made


@fuzz(
    st.lists(
        st.sampled_from(
            [(("info",), ("drop",)), (("licenses",), ("drop",)), (("info",), ("set", None))]
            + [(("annotations", n, "iscrowd"), ("drop",)) for n in range(3)]
            + [(("annotations", n, "area"), ("drop",)) for n in (0, 2)]
            + [(("images", n, k), ("drop",)) for n in (0, 1) for k in ("width", "height")]
            + [(("categories", n, "supercategory"), ("drop",)) for n in range(3)]
        ),
        min_size=0,
    ),
    20,
)
def optional_fields(edits):
    expected, found = sound(), read(written(edited(edits)))
    assert found["names"] == expected["names"]
    assert found["names"][:6] == ["", "name 1", "", "name 3", "", "name 5"]
    assert found["AP"] == expected["AP"] == 1.0
    for one, other in zip(found["targets"], expected["targets"], strict=True):
        assert all(torch.equal(one[key], other[key]) for key in other)
    # aeroplanes (COCO 5) are VOC's class 1, cars (3) 7; the second image has runs
    square = square_mask()
    assert np.array_equal(expected["masks"][1] == 1, square == 1)
    assert all(map(np.array_equal, found["masks"], expected["masks"]))


def test_coco_files(tmp_path):
    in_child(__name__, tmp_path)
