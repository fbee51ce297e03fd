"""Pictures to begin with: scikit-learn's photographs, and digit scenes that are drawn here."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from ladon.data.digit_drawing import draw_scene, load_material
from ladon.errors import DataError

log = logging.getLogger(__name__)
_SCENE_SIZE = 96  # pixels, as in the demo's data
_SCENES = {"scene-3": 3, "scene-5": 5, "scene-8": 8}
_PHOTOGRAPHS = {
    "china": ("Temple", "a Chinese temple with curved roofs behind trees"),
    "flower": ("Flower", "an orange dahlia in front of dark leaves"),
}


@dataclass(frozen=True)
class Sample:
    """A picture.

    Attributes:
        title: short.
        alt: what is to be seen.
        data: its file.
        media_type: of the file.
    """

    title: str
    alt: str
    data: bytes
    media_type: str


@cache
def samples() -> Mapping[str, Sample]:
    """Return them by name; none if scikit-learn is not there."""
    try:
        material = load_material("val", seed=0)  # of what the demo's training has not seen
        photographs = {name: _photograph(name) for name in _PHOTOGRAPHS}
    except (DataError, OSError) as error:
        log.warning("the page has no samples: %s", error)
        return {}
    found = {}
    for name, main in _SCENES.items():
        scene = draw_scene(main, material, _SCENE_SIZE, np.random.default_rng(main))
        file = io.BytesIO()
        Image.fromarray(scene.image).save(file, "PNG")
        others = " and ".join(f"a small {label}" for label in scene.labels[1:])
        alt = f"a large handwritten {main}" + (f" with {others}" if others else "")
        found[name] = Sample(f"Digits, {main}", alt, file.getvalue(), "image/png")
    return {**found, **photographs}


def _photograph(name: str) -> Sample:
    import sklearn.datasets

    folder = Path(sklearn.datasets.__file__).parent / "images"
    title, alt = _PHOTOGRAPHS[name]
    return Sample(title, alt, (folder / f"{name}.jpg").read_bytes(), "image/jpeg")
