"""Draws one digit scene: hand-written digits pasted on a piece of a photograph.

Digits (UCI's optical digits, 8x8) and photographs are those that scikit-learn ships.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.ndimage import binary_dilation

from ladon.data.transforms import IGNORED_LABEL
from ladon.errors import DataError

NUM_DIGITS = 10
_PHOTOGRAPHS = ("china.jpg", "flower.jpg")
# Each 427x640 photograph is cut into tiles of 142x128, so that the splits share no pixel but see
# the same kinds of background. Val has one tile of each row.
_TILE_ROWS, _TILE_COLUMNS = 3, 5
_VAL_TILES = {(0, 1), (1, 3), (2, 0)}
_VAL_SHARE = 0.2
# Share of the free room, around the centre, in which a digit may lie.
_MAIN_SPREAD, _EXTRA_SPREAD = 0.5, 1.0
_PLACEMENTS_TRIED = 20
_MOST_OVERLAP = 0.2
_LUMINANCE = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True)
class Style:
    """How hard scenes are to read; ranges are drawn from evenly.

    Attributes:
        contrast: of the photograph, as a part of its own.
        brightness: likewise.
        main_share: side of the main digit, as a part of the scene's.
        extra_share: of the other digits'.
        extras: least and most number of other digits.
        rotation: of a digit, at most, in degrees.
        luminance_gap: by which a digit is lighter than what it covers, at least, of 255. With the
            brightness it must leave a colour: 255 brightness + gap is 255 at most.
    """

    contrast: float
    brightness: float
    main_share: tuple[float, float]
    extra_share: tuple[float, float]
    extras: tuple[int, int]
    rotation: float
    luminance_gap: float


STYLES = {
    "easy": Style(1 / 3, 0.6, (0.5, 0.67), (0.18, 0.27), (1, 2), 10.0, 70.0),
    "hard": Style(0.8, 0.7, (0.42, 0.58), (0.16, 0.24), (1, 3), 20.0, 45.0),
}
"""By name: the demo's, and one in which few bytes do not tell the digits apart."""


@dataclass(frozen=True)
class Material:
    """Ingredients of one split's scenes.

    Attributes:
        digits: for each digit 0 to 9, its 8x8 images: float64 [N, 8, 8] in 0..1.
        sources: for each digit, the rows of scikit-learn's data set that they come from.
        photographs: uint8 [142, 128, 3] tiles.
    """

    digits: list[np.ndarray]
    sources: list[np.ndarray]
    photographs: list[np.ndarray]


@dataclass(frozen=True)
class Scene:
    """A picture and its labels.

    Attributes:
        image: uint8 [S, S, 3].
        instances: int64 [S, S]; -1 background, else index into `labels`.
        labels: digit of each instance; the first is the main one.
    """

    image: np.ndarray
    instances: np.ndarray
    labels: list[int]

    @property
    def class_mask(self) -> np.ndarray:
        """Segmentation labels, uint8 [S, S]: 0 background, digit + 1, 255 a one-pixel outline."""
        covered = self.instances >= 0
        classes = np.array([*self.labels, -1])[self.instances] + 1
        outline = binary_dilation(covered, np.ones((3, 3))) & ~covered
        return np.where(outline, IGNORED_LABEL, classes).astype(np.uint8)


def load_material(split: str, seed: int) -> Material:
    """Take a split's share of digits and photographs; the splits' shares are disjoint.

    Args:
        split: 'train' or 'val'.
        seed: decides which digits go where.

    Returns:
        The split's digits and photograph regions.

    Raises:
        DataError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits, load_sample_image
    except ImportError as error:
        raise DataError("digit scenes need scikit-learn: pip install scikit-learn") from error
    data = load_digits()
    rng = np.random.default_rng(seed)
    sources = []
    for digit in range(NUM_DIGITS):
        rows = rng.permutation(np.flatnonzero(data.target == digit))
        num_val = round(len(rows) * _VAL_SHARE)
        sources.append(rows[:num_val] if split == "val" else rows[num_val:])
    return Material(
        digits=[data.images[rows] / 16.0 for rows in sources],
        sources=sources,
        photographs=[t for name in _PHOTOGRAPHS for t in _tiles(load_sample_image(name), split)],
    )


def _tiles(photograph: np.ndarray, split: str) -> list[np.ndarray]:
    height, width = len(photograph) // _TILE_ROWS, photograph.shape[1] // _TILE_COLUMNS
    return [
        photograph[row * height : (row + 1) * height, column * width : (column + 1) * width]
        for row in range(_TILE_ROWS)
        for column in range(_TILE_COLUMNS)
        if ((row, column) in _VAL_TILES) == (split == "val")
    ]


def draw_scene(
    main: int,
    material: Material,
    size: int,
    rng: np.random.Generator,
    style: Style = STYLES["easy"],
) -> Scene:
    """Draw one large digit and a few small ones on a dulled photograph.

    Args:
        main: the large digit, 0 to 9.
        material: the split's digits and photographs.
        size: side S of the scene in pixels.
        rng: all choices come from here.
        style: how hard it is to read.

    Returns:
        The scene.
    """
    background = _background(material.photographs, size, rng, style)
    canvas = background.copy()
    instances = np.full((size, size), -1)
    labels: list[int] = []
    least, most = style.extras
    extras = rng.integers(NUM_DIGITS, size=rng.integers(least, most + 1))
    for digit in (main, *(int(extra) for extra in extras)):
        share = style.extra_share if labels else style.main_share
        side = round(size * rng.uniform(*share))
        glyph = _glyph(material.digits[digit], side, style.rotation, rng)
        spread = _EXTRA_SPREAD if labels else _MAIN_SPREAD
        top, left, overlap = _place(glyph > 0.5, instances, spread, rng)
        if overlap > _MOST_OVERLAP:
            continue
        window = np.s_[top : top + glyph.shape[0], left : left + glyph.shape[1]]
        least_luminance = background[window].mean(axis=(0, 1)) @ _LUMINANCE + style.luminance_gap
        colour = _light_colour(least_luminance, rng)
        canvas[window] += glyph[..., None] * (colour - canvas[window])
        instances[window][glyph > 0.5] = len(labels)
        labels.append(digit)
    image = np.clip(np.rint(canvas), 0, 255).astype(np.uint8)
    return Scene(image, instances, labels)


def _background(
    photographs: list[np.ndarray], size: int, rng: np.random.Generator, style: Style
) -> np.ndarray:
    """Cut a square out of a photograph, scale, dull and darken it: float64 [S, S, 3]."""
    photograph = photographs[rng.integers(len(photographs))]
    height, width, _ = photograph.shape
    side = int(rng.integers(min(height, width) // 2, min(height, width) + 1))
    top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
    square = Image.fromarray(photograph[top : top + side, left : left + side])
    if rng.random() < 0.5:
        square = square.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    pixels = np.asarray(square.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float64)
    mean = pixels.mean(axis=(0, 1))
    return (mean + (pixels - mean) * style.contrast) * style.brightness


def _glyph(digits: np.ndarray, side: int, rotation: float, rng: np.random.Generator) -> np.ndarray:
    """Enlarge and turn one 8x8 digit: opacity, float64 [h, w] in 0..1, cut to its strokes."""
    digit = digits[rng.integers(len(digits))]
    # A margin keeps strokes at the edge whole and smooth.
    padded = Image.fromarray(np.pad(digit * 255, 2).astype(np.float32))
    enlarged = padded.resize((side * 12 // 8,) * 2, Image.Resampling.BICUBIC)
    angle = rng.uniform(-rotation, rotation)
    ink = np.asarray(enlarged.rotate(angle, Image.Resampling.BICUBIC), dtype=np.float64) / 255
    opacity = np.clip((ink - 0.25) / 0.3, 0, 1)
    rows, columns = np.nonzero(opacity.max(axis=1))[0], np.nonzero(opacity.max(axis=0))[0]
    return opacity[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _place(
    strokes: np.ndarray, instances: np.ndarray, spread: float, rng: np.random.Generator
) -> tuple[int, int, float]:
    """Find a place, free of other digits if there is one: (top, left, share overlapped)."""
    height, width = strokes.shape
    room = np.array([len(instances) - height, len(instances) - width])
    best = (0, 0, np.inf)
    for _ in range(_PLACEMENTS_TRIED):
        offset = 0.5 + spread * rng.uniform(-0.5, 0.5, size=2)
        top, left = (int(position) for position in np.rint(room * offset))
        below = instances[top : top + height, left : left + width] >= 0
        overlap = float((below & strokes).sum() / strokes.sum())
        if overlap < best[2]:
            best = (top, left, overlap)
        if overlap == 0:
            break
    return best


def _light_colour(least: float, rng: np.random.Generator) -> np.ndarray:
    """Draw an RGB colour of a luminance of `least`, below 255, or more: float64 [3]."""
    while True:
        colour = rng.uniform(0, 255, size=3)
        if colour @ _LUMINANCE >= least:
            return colour
