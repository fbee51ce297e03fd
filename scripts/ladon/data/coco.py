"""COCO as a detection set and, through PASCAL VOC's 21 classes, as a segmentation set."""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pycocotools.coco import COCO
from torch.utils.data import Dataset
from torchvision.transforms import functional as F

from ladon.data.coco_annotations import Annotations, Shape, columns_of
from ladon.data.coco_categories import Categories
from ladon.data.coco_content import check_content
from ladon.data.coco_masks import instance_mask, shape_problem
from ladon.data.coco_parsing import fast_columns
from ladon.data.transforms import IGNORED_LABEL, recompress_jpeg
from ladon.data.voc import VOC_CLASSES
from ladon.errors import DataError
from ladon.images import MOVE_ROOT, open_image, shown

# COCO's category id of each VOC class, in VOC's class order; 0 is background.
COCO_IDS_OF_VOC = (
    0, 5, 2, 16, 9, 44, 6, 3, 17, 62, 21,
    67, 18, 19, 4, 1, 64, 20, 63, 7, 72,
)  # fmt: skip
_VOC_CLASS = {coco_id: voc for voc, coco_id in enumerate(COCO_IDS_OF_VOC) if voc > 0}
_INT64 = 2**63


def coco_dataset(
    img_dir_path: str | os.PathLike,
    ann_file_path: str | os.PathLike,
    annotated_only: bool,
    random_horizontal_flip: float | None = None,
    is_segment: bool = False,
    transforms: Callable | None = None,
    jpeg_quality: int | None = None,
) -> CocoDataset:
    """Build a COCO dataset; the name and the arguments are those of users' configs.

    Args:
        img_dir_path: folder of the images; `~` is expanded.
        ann_file_path: COCO's `instances_*.json`; `~` is expanded.
        annotated_only: drop images without annotations, or whose boxes all have a side of at most
            1 pixel.
        random_horizontal_flip: detection without `transforms`: probability of mirroring.
        is_segment: give VOC segmentation masks instead of boxes.
        transforms: from (PIL image, target) to (image, target); without it, detection images
            become float tensors in 0..1.
        jpeg_quality: recompress images as JPEG first.

    Returns:
        The dataset.

    Raises:
        DataError: a file or folder is missing, or the JSON is not COCO's.
    """
    return CocoDataset(
        Path(img_dir_path).expanduser(),
        Path(ann_file_path).expanduser(),
        annotated_only=annotated_only,
        flip_probability=random_horizontal_flip or 0.0,
        is_segment=is_segment,
        transforms=transforms,
        jpeg_quality=jpeg_quality,
    )


class CocoDataset(Dataset):
    """COCO images with detection targets or VOC segmentation masks.

    A detection item is (image float32 [3, H, W] in 0..1, target) with the target's `boxes` float32
    [N, 4] as x1, y1, x2, y2 in pixels, `labels` int64 [N] (see `categories`), `image_id` int64 [],
    `area` float32 [N] and `iscrowd` int64 [N]. A segmentation item is (PIL 'RGB' image, PIL 'L'
    mask of VOC class ids), then transformed.

    Args:
        image_dir: folder that the JSON's file names are relative to.
        annotation_file: COCO's JSON.
        annotated_only, flip_probability, is_segment, transforms, jpeg_quality: see `coco_dataset`.

    Attributes:
        annotations: what is used of the file.
        ids: COCO image id of each sample.
        categories: the label of each category; None for segmentation, whose classes are VOC's.
    """

    def __init__(
        self,
        image_dir: Path,
        annotation_file: Path,
        *,
        annotated_only: bool = False,
        flip_probability: float = 0.0,
        is_segment: bool = False,
        transforms: Callable | None = None,
        jpeg_quality: int | None = None,
    ) -> None:
        self.image_dir = image_dir
        self.annotation_file = annotation_file
        self.flip_probability = flip_probability
        self.is_segment = is_segment
        self.transforms = transforms
        self.jpeg_quality = jpeg_quality
        self.converts = F.to_tensor  # what `data.device_input` exchanges
        self.annotations = read_annotations(annotation_file, _VOC_CLASS if is_segment else None)
        ids = self.annotations.image_ids
        if annotated_only:
            is_usable = self.annotations.boxes[:, 2:].min(axis=1) > 1
            ids = ids[self.annotations.count(is_usable) > 0]
        self.ids: list[int] = ids.tolist()
        if not self.ids:
            which = "annotated images" if annotated_only else "images"
            raise DataError(f"{annotation_file} lists no {which}; use another annotation file")
        self._check_images()
        self.categories: Categories | None = None
        if is_segment:
            self._check_shapes()
        else:
            found = self.annotations
            self.categories = Categories(found.entries, found.used_ids, annotation_file)

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def coco(self) -> COCO:
        """pycocotools' API object: the whole file in memory.

        It is read when it is asked for first; do that before a loader starts its workers, each of
        which would read its own.
        """
        return load_coco(self.annotation_file)

    @cached_property
    def sizes(self) -> list[tuple[int, int]]:
        """(height, width) of each sample in pixels, from the JSON."""
        found = self.annotations
        sides = found.sides[np.searchsorted(found.image_ids, self.ids)]
        missing = np.flatnonzero((sides == 0).any(axis=1))
        if len(missing):
            raise DataError(
                f"{self.annotation_file} gives no height and width for "
                f"{shown(found.file_name(self.ids[missing[0]]))}; add them"
            )
        return [(height, width) for height, width in sides.tolist()]

    @property
    def class_names(self) -> list[str] | None:
        """Name of each label, '' where one has none; None if the file names no category."""
        return list(VOC_CLASSES) if self.categories is None else self.categories.names

    @cached_property
    def images(self) -> list[str]:
        """Image file of each sample."""
        return [str(self.image_dir / self.annotations.file_name(i)) for i in self.ids]

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """Read one image with its target.

        Raises:
            DataError: the image or one of its annotations cannot be read.
        """
        image_id = self.ids[index]
        image = open_image(self.image_dir / self.annotations.file_name(image_id))
        if self.jpeg_quality is not None:
            image = recompress_jpeg(image, self.jpeg_quality)
        if self.is_segment:
            target: Any = self._voc_mask(image_id, image.height, image.width)
        else:
            target = self._detection_target(image_id, image.height, image.width)
        if self.transforms is not None:
            return self.transforms(image, target)
        if self.is_segment:
            return image, target
        return self._maybe_flip(self.converts(image), target)

    def _maybe_flip(self, image: torch.Tensor, target: dict) -> tuple[torch.Tensor, dict]:
        if not self.flip_probability or float(torch.rand(())) >= self.flip_probability:
            return image, target
        x1, y1, x2, y2 = target["boxes"].unbind(1)
        width = image.shape[-1]
        target["boxes"] = torch.stack([width - x2, y1, width - x1, y2], dim=1)
        return image.flip(-1), target

    def _detection_target(self, image_id: int, height: int, width: int) -> dict[str, torch.Tensor]:
        """Leave out crowds, clip boxes, and leave out boxes without extent."""
        assert self.categories is not None  # a detection set's
        found, labels = self.annotations, self.categories.labels
        rows = found.rows(image_id)
        is_single = ~found.crowds[rows]
        classes = np.array([labels[i] for i in found.categories(rows)], dtype=np.int64)[is_single]
        boxes = torch.from_numpy(found.boxes[rows][is_single].astype(np.float32))
        boxes[:, 2:] += boxes[:, :2]
        boxes[:, 0::2].clamp_(0, width)
        boxes[:, 1::2].clamp_(0, height)
        has_extent = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
        area = torch.from_numpy(found.areas[rows][is_single].astype(np.float32))
        return {
            "boxes": boxes[has_extent],
            "labels": torch.from_numpy(classes)[has_extent],
            "image_id": torch.tensor(image_id, dtype=torch.int64),
            "area": area[has_extent],
            "iscrowd": torch.zeros(int(has_extent.sum()), dtype=torch.int64),
        }

    def _voc_mask(self, image_id: int, height: int, width: int) -> Image.Image:
        """Paint VOC class ids; a pixel under two or more instances is 255."""
        classes = np.zeros((height, width), dtype=np.uint8)
        covered = np.zeros((height, width), dtype=np.uint16)
        rows = self.annotations.rows(image_id)
        for shape in self.annotations.shapes(range(rows.start, rows.stop)):
            # the image may be of another size than the JSON says
            self._check_shape(shape, (height, width))
            instance = instance_mask(shape.parsed, height, width)
            classes[instance] = _VOC_CLASS[shape.category_id]
            covered += instance
        classes[covered > 1] = IGNORED_LABEL
        return Image.fromarray(classes)

    def _check_shapes(self) -> None:
        """See that every mask that is going to be painted can be."""
        sides = self.annotations.sides
        for shape in self.annotations.shapes():
            height, width = sides[shape.image].tolist()
            self._check_shape(shape, (height, width) if height and width else None)

    def _check_shape(self, shape: Shape, size: tuple[int, int] | None) -> None:
        problem = shape_problem(shape.parsed, size)
        if problem is not None:
            raise DataError(
                f"{self.annotation_file}: the segmentation of annotation {shape.id} "
                f"{problem}; correct or remove it"
            )

    def _check_images(self) -> None:
        if not self.image_dir.is_dir():
            raise DataError(
                f"image folder {self.image_dir} does not exist; "
                f"put the images of {self.annotation_file} there, set img_dir_path, {MOVE_ROOT}"
            )
        names_in: dict[str, set[str]] = defaultdict(set)
        for image_id in self.ids:
            folder, name = os.path.split(self.annotations.file_name(image_id))
            names_in[folder].add(name)
        missing = []
        for folder, names in names_in.items():
            path = self.image_dir / folder
            present = set(os.listdir(path)) if path.is_dir() else set()
            missing += [os.path.join(folder, name) for name in names - present]
        if missing:
            raise DataError(
                f"{shown(self.image_dir / min(missing))} does not exist ({len(missing)} of "
                f"{len(self.ids)} images that {self.annotation_file} names are missing); "
                "restore them or set img_dir_path"
            )


def read_annotations(path: Path, painted: Iterable[int] | None = None) -> Annotations:
    """Read what is used of a COCO annotation file.

    Args:
        path: as for `load_coco`, which fills in the same.
        painted: ids of the categories whose segmentations are kept; None for no segmentations.

    Raises:
        DataError: as `load_coco`.
    """
    with _no_collection():
        columns = fast_columns(path, painted)
        if columns is None:
            columns = columns_of(load_coco(path).dataset, painted)
        return Annotations(columns)


def load_coco(path: Path) -> COCO:
    """Read a COCO annotation file, silently.

    What COCOeval needs and small JSON files leave out is filled in: `info`, and each annotation's
    `iscrowd` (0) and `area` (that of its box). Image ids that do not fit a target's int64 are
    replaced by 1 to N, in their order.

    Args:
        path: JSON file with `images`, `annotations` and `categories`.

    Returns:
        pycocotools' API object with its index built.

    Raises:
        DataError: the file is missing, no JSON, or not COCO's.
    """
    if not path.is_file():
        raise DataError(
            f"annotation file {path} does not exist; put it there, set ann_file_path, {MOVE_ROOT}"
        )
    with _no_collection():
        content = _read_json(path)
        check_content(content, path)
        _number_images(content)
        if not isinstance(content.get("info"), dict):
            content["info"] = {}
        coco = COCO()
        coco.dataset = content
        with contextlib.redirect_stdout(io.StringIO()):
            coco.createIndex()
    return coco


def _read_json(path: Path) -> Any:
    try:
        with path.open(encoding="utf-8-sig") as file:  # some editors begin a file with a BOM
            return json.load(file)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; check its permissions") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON ({error}); replace it") from error


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Keep garbage collection from walking a million new objects over and over: none is garbage."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _number_images(content: dict) -> None:
    ids = sorted(image["id"] for image in content["images"])
    if not ids or (ids[0] >= -_INT64 and ids[-1] < _INT64):
        return
    numbers = {image_id: number for number, image_id in enumerate(ids, start=1)}
    for image in content["images"]:
        image["id"] = numbers[image["id"]]
    for annotation in content["annotations"]:
        annotation["image_id"] = numbers[annotation["image_id"]]
