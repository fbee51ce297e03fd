"""Draws imgs/architecture.svg and architecture_dark.svg: three single-task models beside Ladon.

    python scripts/draw_architecture.py [--out imgs]

Both have a transparent background, ink for light and for dark pages. The same bytes every time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Polygon, Rectangle

from ladon.launch import make_parser


@dataclass(frozen=True)
class Theme:
    """Colours: text and arrows, quiet text and frames, what is shared, and each task."""

    ink: str
    quiet: str
    shared: str
    tasks: tuple[str, str, str]


# Okabe & Ito's palette, lighter for dark pages
THEMES = {
    "architecture.svg": Theme("#1f2328", "#59636e", "#0072B2", ("#B87A00", "#00805D", "#A8487F")),
    "architecture_dark.svg": Theme(
        "#e6edf3", "#9aa5b1", "#56B4E9", ("#F0B84B", "#3CCFA4", "#E79CC6")
    ),
}
HEADS = ("classification", "detection", "segmentation")
QUESTIONS = ("what?", "where?", "which pixels?")

# the drawing's own units: 90 wide, 60 high, 10 to the inch
WIDTH, HEIGHT = 90.0, 60.0
DEVICE, SERVER = (1.0, 29.5), (44.5, 89.0)  # left and right edge
IMAGE, ENCODER, PAYLOAD, BODY, HEAD, ANSWER = 6.0, 20.0, 37.0, 52.0, 68.5, 83.0  # centers
UPPER, LOWER = (47.0, 40.0, 33.0), (19.5, 12.5, 5.5)  # rows of the two halves
ROW = 4.6  # height of a box


class Drawing:
    """A few shapes in the drawing's own units, in a theme's colours."""

    def __init__(self, theme: Theme) -> None:
        self.theme = theme
        self.figure = Figure(figsize=(WIDTH / 10, HEIGHT / 10))
        self.axes: Axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set_xlim(0, WIDTH)
        self.axes.set_ylim(0, HEIGHT)
        self.axes.set_axis_off()

    def text(self, x: float, y: float, text: str, **style: Any) -> None:
        """Text around a point, in ink unless styled otherwise."""
        centered: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 9}
        self.axes.text(x, y, text, **{**centered, "color": self.theme.ink, **style})

    def frame(self, edges: tuple[float, float], label: str) -> None:
        """Draw the ground on which one machine's parts stand, over the whole height."""
        left, right = edges
        self.axes.add_patch(
            FancyBboxPatch(
                (left + 1, 1.5),
                right - left - 2,
                HEIGHT - 7.0,
                boxstyle="round,pad=1,rounding_size=1.6",
                facecolor=(*matplotlib.colors.to_rgb(self.theme.quiet), 0.09),
                edgecolor=(*matplotlib.colors.to_rgb(self.theme.quiet), 0.35),
                linewidth=0.8,
            )
        )
        self.text((left + right) / 2, HEIGHT - 2.2, label, color=self.theme.quiet, fontsize=10)

    def box(
        self, x: float, y: float, width: float, text: str, color: str, height: float = ROW
    ) -> None:
        """Draw a named part."""
        self.axes.add_patch(
            FancyBboxPatch(
                (x - width / 2 + 0.5, y - height / 2 + 0.5),
                width - 1,
                height - 1,
                boxstyle="round,pad=0.5,rounding_size=0.9",
                facecolor=(*matplotlib.colors.to_rgb(color), 0.22),
                edgecolor=color,
                linewidth=1.3,
            )
        )
        self.text(x, y, text)

    def payload(self, x: float, y: float, color: str, height: float = 3.4) -> None:
        """Draw the bytes on the link: a solid small box."""
        self.axes.add_patch(
            Rectangle(
                (x - 4.2, y - height / 2),
                8.4,
                height,
                facecolor=(*matplotlib.colors.to_rgb(color), 0.22),
                edgecolor=color,
                linewidth=1.3,
                linestyle=(0, (3, 1.5)),
            )
        )
        self.text(x, y, "payload")

    def arrow(self, start: tuple[float, float], end: tuple[float, float], bend: float = 0) -> None:
        """From one part to the next."""
        self.axes.add_patch(
            FancyArrowPatch(
                start,
                end,
                arrowstyle="-|>",
                mutation_scale=8,
                shrinkA=0,
                shrinkB=0,
                linewidth=1.1,
                color=self.theme.ink,
                connectionstyle=f"arc3,rad={bend}",
            )
        )

    def picture(self, x: float, y: float, answer: int | None = None) -> None:
        """Draw the camera's picture (of a cat), or one task's answer on it; 5 by 5 units.

        Args:
            x: center.
            y: center.
            answer: index of the task; None for the picture itself.
        """
        color = self.theme.ink if answer is None else self.theme.tasks[answer]
        size = 5.0
        self.axes.add_patch(
            Rectangle(
                (x - size / 2, y - size / 2),
                size,
                size,
                facecolor="none",
                edgecolor=color,
                linewidth=1.1,
            )
        )
        fill = self.theme.quiet if answer != 2 else color
        head: dict[str, Any] = {"facecolor": fill, "edgecolor": "none"}
        low = y - 1.0 if answer == 0 else y - 0.4
        self.axes.add_patch(Circle((x, low), 1.15, **head))
        for side in (-1, 1):
            ear = [(x + side * a, low + b) for a, b in ((0.28, 1.0), (1.08, 0.3), (1.0, 1.85))]
            self.axes.add_patch(Polygon(ear, **head))
        if answer == 0:
            self.text(x, y + 1.6, "cat", fontsize=8, color=color, weight="bold")
        if answer == 1:
            self.axes.add_patch(
                Rectangle(
                    (x - 1.65, low - 1.6),
                    3.3,
                    3.95,
                    facecolor="none",
                    edgecolor=color,
                    linewidth=1.6,
                )
            )


def draw(theme: Theme) -> Figure:
    """Draw both halves."""
    drawing = Drawing(theme)
    drawing.frame(DEVICE, "camera device")
    drawing.frame(SERVER, "server")
    drawing.text(
        (DEVICE[1] + SERVER[0]) / 2, HEIGHT - 2.2, "thin link", color=theme.quiet, fontsize=10
    )
    title = {"ha": "left", "fontsize": 10.5, "weight": "bold"}
    drawing.text(3, UPPER[0] + 5.1, "One model per task", **title)
    drawing.text(3, LOWER[0] + 5.1, "Ladon", **{**title, "color": theme.shared})
    drawing.axes.plot((3, WIDTH - 3), (27.0, 27.0), color=theme.quiet, linewidth=0.8, alpha=0.5)
    for y, count in ((UPPER[2], "three payloads"), (LOWER[1], "one payload")):
        drawing.text(PAYLOAD, y - 3.2, f"{count} per image", color=theme.quiet, fontsize=7.5)
    _single_task_models(drawing)
    _ladon(drawing)
    return drawing.figure


def _single_task_models(drawing: Drawing) -> None:
    """Draw the upper half: an encoder, a payload and a body for each task."""
    middle = UPPER[1]
    drawing.picture(IMAGE, middle)
    for task, (y, color) in enumerate(zip(UPPER, drawing.theme.tasks, strict=True)):
        drawing.arrow((IMAGE + 3.2, middle + (y - middle) * 0.12), (ENCODER - 6.3, y))
        drawing.box(ENCODER, y, 12, f"encoder {task + 1}", color)
        drawing.arrow((ENCODER + 6.3, y), (PAYLOAD - 4.6, y))
        drawing.payload(PAYLOAD, y, color)
        drawing.arrow((PAYLOAD + 4.5, y), (BODY - 5.8, y))
        drawing.box(BODY, y, 11, f"body {task + 1}", color)
        drawing.arrow((BODY + 5.8, y), (HEAD - 7.3, y))
        _head_and_answer(drawing, task, y)


def _ladon(drawing: Drawing) -> None:
    """Draw the lower half: one encoder, one payload and one body for all three heads."""
    middle, color = LOWER[1], drawing.theme.shared
    height = LOWER[0] - LOWER[2] + ROW
    drawing.picture(IMAGE, middle)
    drawing.arrow((IMAGE + 3.2, middle), (ENCODER - 6.3, middle))
    drawing.box(ENCODER, middle, 12, "one encoder", color)
    drawing.arrow((ENCODER + 6.3, middle), (PAYLOAD - 4.6, middle))
    drawing.payload(PAYLOAD, middle, color)
    drawing.arrow((PAYLOAD + 4.5, middle), (BODY - 5.8, middle))
    drawing.box(BODY, middle, 11, "one\nshared\nbody", color, height)
    for task, y in enumerate(LOWER):
        drawing.arrow((BODY + 5.8, y), (HEAD - 7.3, y))
        _head_and_answer(drawing, task, y)


def _head_and_answer(drawing: Drawing, task: int, y: float) -> None:
    drawing.box(HEAD, y, 14, "", drawing.theme.tasks[task])
    drawing.text(HEAD, y + 0.85, HEADS[task])
    drawing.text(HEAD, y - 1.0, f"head: {QUESTIONS[task]}", fontsize=7.5)
    drawing.arrow((HEAD + 7.3, y), (ANSWER - 3.2, y))
    drawing.picture(ANSWER, y, task)


def main(argv: list[str] | None = None) -> int:
    """Write both files; return the exit code."""
    parser = make_parser("draw_architecture", __doc__)
    parser.add_argument("--out", type=Path, default=Path("imgs"), help="default: %(default)s")
    out = parser.parse_args(argv).out
    out.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.hashsalt": "ladon", "svg.fonttype": "path"}):
        for name, theme in THEMES.items():
            draw(theme).savefig(out / name, transparent=True, metadata={"Date": None})
    return 0
