"""Puts the published tables and their plots into README.md, between two marks.

What stands between the marks is replaced, the rest of the file stays as it is.
"""

from __future__ import annotations

import os
from pathlib import Path

from ladon.errors import UsageError, cannot_write
from ladon.report.plots import published_figure, save_figure
from ladon.report.render import markdown_table
from ladon.report.results import RunCollection
from ladon.report.tables import PUBLISHED_COLUMNS, result_table

BEGIN, END = "<!-- tables:begin -->", "<!-- tables:end -->"
NEW_README = f"# Ladon\n\n{BEGIN}\n{END}\n"


def image_name(dataset: str) -> str:
    """File name of a dataset's plot."""
    return f"published_{dataset}.png"


def region(published: RunCollection, images: str) -> str:
    """Return what belongs between the marks.

    Args:
        published: the results.
        images: folder of the plots, as seen from README's.
    """
    parts = ["<!-- written by `make tables` from scripts/ladon/published/results.csv -->"]
    for (_, dataset), results in published.by_dataset().items():
        table = result_table(results, PUBLISHED_COLUMNS)
        picture = f"{images}/{image_name(dataset)}"
        alt = f"{results[0].view.first.label} against data size on {dataset}, published results"
        parts += [
            f"### {table.title}",
            markdown_table(table),
            *([f"*{table.caption}*"] if table.caption else []),
            f'<img src="{picture}" alt="{alt}" width="640">',
        ]
    parts.append(
        "Data size: mean ± standard deviation per image, 1 KB = 1024 bytes, measured on each "
        "task's own input size. Unrounded numbers and their sources: "
        "[published](scripts/ladon/published/README.md)."
    )
    return "\n\n".join(parts)


def update_readme(path: Path, images: Path, published: RunCollection) -> list[Path]:
    """Rewrite the region in README and draw its plots; twice gives the same bytes.

    Args:
        path: of README.md; made with a title and the region if there is none.
        images: folder of the plots.
        published: the results.

    Returns:
        The files written.

    Raises:
        LadonError: README lacks a mark or has it twice, or a file cannot be written.
    """
    try:
        text = path.read_text(encoding="utf-8") if path.exists() else NEW_README
        if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
            raise UsageError(f"{path}: needs one line '{BEGIN}' and after it one line '{END}'")
        before, _, rest = text.partition(BEGIN)
        _, _, after = rest.partition(END)
        seen = Path(os.path.relpath(images, path.parent)).as_posix()
        path.write_text(
            f"{before}{BEGIN}\n{region(published, seen)}\n{END}{after}", encoding="utf-8"
        )
        images.mkdir(parents=True, exist_ok=True)
        written = [path]
        for _, dataset in published.by_dataset():
            written.append(images / image_name(dataset))
            save_figure(published_figure(published, dataset=dataset), written[-1])
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is not UTF-8 text: {error}") from error
    except OSError as error:
        raise cannot_write(error.filename or path, error) from error
    return written
