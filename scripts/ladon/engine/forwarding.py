"""Errors of a network, as one line that names the images which it was given."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from ladon.data.samples import sample_name
from ladon.engine.deterministic import refusal
from ladon.engine.failures import ACCELERATOR_ERRORS, is_connection_error, worker_failure
from ladon.errors import LadonError, in_one_line

_NAMED = 3
_SAYING_MORE: tuple[type[Exception], ...] = (
    LadonError,
    torch.OutOfMemoryError,
    *ACCELERATOR_ERRORS,
)


class TrainingBatch(NamedTuple):
    """A batch that is trained on, on the device.

    Attributes:
        images: as the task's models take them.
        targets: of the images.
        supp: the supplementary dicts that torchdistill's loaders add.
        names: returns what to call the images in an error.
    """

    images: Any
    targets: Any
    supp: Any
    names: Callable[[], str]


def batch_names(dataset: Any, indices: Sequence[int]) -> str:
    """Name the first samples of a batch by their files.

    Args:
        dataset: map-style dataset.
        indices: of the batch's samples.
    """
    names = [sample_name(dataset, index) for index in dict.fromkeys(indices)]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


@contextmanager
def naming_images(names: Callable[[], str], doing: str) -> Iterator[None]:
    """Turn what a network raises within into one line.

    What says more by itself stays: errors of this project, of memory, of the device, of the
    connections between processes, of operators that `--deterministic` refuses.

    Args:
        names: returns what to call the batch; called only if something is raised.
        doing: what could not be done with it, like `the student cannot take`.

    Raises:
        LadonError: with the images and the reason.
    """
    try:
        yield
    except _SAYING_MORE:
        raise
    except Exception as error:
        if (refused := refusal(error)) is not None:
            raise refused from error
        if is_connection_error(error) or worker_failure(error) is not None:
            raise
        advice = "look at these images' size and content, or take them out of the dataset"
        if "more than 1 value per channel" in str(error):  # of what F.batch_norm normalizes
            advice = "one image is no batch here: set drop_last: true, or another batch_size"
        raise LadonError(f"{doing} {names()}: {in_one_line(error)}; {advice}") from error
