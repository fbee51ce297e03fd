"""Collate functions that users' configs name, registered with torchdistill on import.

`pascal_seg_collate_fn`, `pascal_seg_eval_collate_fn` and `default_collate_w_pil` come from
`sc2bench.transforms`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from sc2bench.transforms.collator import cat_list
from torchdistill.datasets.registry import register_collate_func

from ladon.data.transforms import IGNORED_LABEL


@register_collate_func
def coco_collate_fn(batch: Sequence[tuple]) -> tuple[list, ...]:
    """Collate detection samples: images differ in size, so nothing is stacked.

    Args:
        batch: B samples (image, target) or (image, target, supplementary dict).

    Returns:
        One list of length B for each field of a sample.
    """
    return tuple(list(field) for field in zip(*batch, strict=True))


def _pad_and_stack(images: Sequence[Any], masks: Sequence[Any]) -> tuple[Any, Any]:
    return cat_list(images, fill_value=0), cat_list(masks, fill_value=IGNORED_LABEL)


@register_collate_func
def coco_seg_collate_fn(batch: Sequence[tuple]) -> tuple[torch.Tensor, torch.Tensor, tuple]:
    """Collate segmentation samples for training.

    Args:
        batch: B samples (image [3, H, W], mask [H, W], supplementary dict).

    Returns:
        Images [B, 3, H', W'] padded with 0, masks int64 [B, H', W'] padded with 255, and the
        B dicts; H' and W' are the batch's largest height and width.
    """
    images, masks, supp_dicts = zip(*batch, strict=True)
    return (*_pad_and_stack(images, masks), supp_dicts)


@register_collate_func
def coco_seg_eval_collate_fn(batch: Sequence[tuple]) -> tuple[torch.Tensor, torch.Tensor]:
    """Collate segmentation samples for evaluation.

    Args:
        batch: B samples (image [3, H, W], mask [H, W]).

    Returns:
        Images and masks, padded as by `coco_seg_collate_fn`.
    """
    images, masks = zip(*batch, strict=True)
    return _pad_and_stack(images, masks)
