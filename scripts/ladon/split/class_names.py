"""Names of classes for checkpoints that tell none: the published ones were made of known data."""

from __future__ import annotations

from collections.abc import Sequence

from torchvision.models import ResNet50_Weights
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights
from torchvision.models.segmentation import DeepLabV3_ResNet50_Weights

# torchvision's own weights were made of the published data sets, in the published order
_PUBLISHED = {
    "classification": ResNet50_Weights.IMAGENET1K_V1,
    "detection": FasterRCNN_ResNet50_FPN_Weights.COCO_V1,
    "segmentation": DeepLabV3_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1,
}
_BACKGROUND = "__background__"


def names_or_published(
    names: Sequence[str] | None, head: str, number: int | None
) -> list[str] | None:
    """Return a head's names; if there are none, those of published data of as many classes.

    Args:
        names: by label, as far as a checkpoint or the data tell them.
        head: 'classification', 'detection' or 'segmentation'.
        number: how many classes the head has, None if unknown.

    Returns:
        ILSVRC 2012's names for 1000 classes, COCO's for 91, Pascal VOC's for 21; None for others.
    """
    if names is not None:
        return list(names)
    published = _PUBLISHED[head].meta["categories"]
    if number != len(published):
        return None
    return ["background" if n == _BACKGROUND else "" if n == "N/A" else n for n in published]
