"""From an encoder's input back to the image: what `ladon.edge.fitting` did, the other way round."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ladon.codec import Fit, Payload
from ladon.edge.fitting import crop_offset
from ladon.split.answers import IGNORED


def labels_in_image(labels: np.ndarray, payload: Payload) -> np.ndarray:
    """Return labels in an image's size.

    Args:
        labels: [H, W] uint8 in the size of the encoder's input.
        payload: tells how that was made of the image.

    Returns:
        [H, W] uint8 in the image's size, each pixel with the nearest label; `IGNORED` where the
        encoder saw nothing.
    """
    if payload.fit is Fit.PADDED:
        labels = labels[: payload.scaled_size[0], : payload.scaled_size[1]]
    elif payload.fit is Fit.CROPPED:
        scaled = np.full(payload.scaled_size, IGNORED, np.uint8)
        top, left = crop_offset(payload.scaled_size, payload.input_size)
        scaled[top : top + labels.shape[0], left : left + labels.shape[1]] = labels
        labels = scaled
    height, width = payload.image_size
    if labels.shape == (height, width):
        return labels
    image = Image.fromarray(np.ascontiguousarray(labels))
    return np.asarray(image.resize((width, height), Image.Resampling.NEAREST))
