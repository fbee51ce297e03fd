"""A profile of a config's model, and of the teacher beside it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from ladon.bottlenecks import update_bottleneck
from ladon.engine.plan import TEACHER
from ladon.measure.model_profile import (
    Part,
    default_size,
    profile_parts,
    profile_whole,
    sample_picture,
    time_parts,
)
from ladon.run_models import build_student, build_teacher
from ladon.split.loading import load, open_run


@dataclass(frozen=True)
class Profile:
    """A model's profile.

    Attributes:
        name: of the experiment.
        size: height and width of the picture.
        input_size: of the encoder's input that became of it.
        payload_bytes: what the picture is sent as; whatever the picture is, that is no average.
        threads: torch's.
        parts: of the model, in the order in which they run, and the unsplit teacher.
    """

    name: str
    size: tuple[int, int]
    input_size: tuple[int, int]
    payload_bytes: int
    threads: int
    parts: list[Part]

    @property
    def title(self) -> str:
        """One line for people."""
        shown = "x".join(map(str, self.input_size))
        return f"{self.name}: an image of {shown}, {self.threads} threads"

    def to_plain(self) -> dict[str, Any]:
        """Return it in JSON's types."""
        return {"format": 1, **asdict(self)}


def profile_model(
    source: str | os.PathLike,
    size: tuple[int, int] | None,
    repeats: int,
    *,
    assignments: Sequence[str] = (),
    data_root: str | None = None,
) -> Profile:
    """Profile a split model, and its unsplit teacher where the config has one.

    Args:
        source: as for `ladon.load`.
        size: height and width of the picture; by default what the model is made for.
        repeats: timed ones.
        assignments, data_root: as for `ladon.load`.

    Raises:
        ConfigError: the config cannot be used, or its model has no bottleneck.
        CheckpointError: weights are missing or do not fit.
    """
    options: dict[str, Any] = {"assignments": assignments, "data_root": data_root}
    with load(source, **options) as model:
        size = size or default_size(model.fitting)
        picture = sample_picture(size)
        seconds = time_parts(model, picture, repeats)
        fitted, payload = model.fit(picture), model.encode(picture)
        fitting, heads = model.fitting, model.heads
    run, _ = open_run(source, **options)
    network = build_student(run).eval()  # anew: the other is made fast, and cannot be counted
    update_bottleneck(network)
    plain = replace(fitting, mean=None, std=None)(picture)
    own_transform = hasattr(network, "transform")
    parts = profile_parts(network, plain.input if own_transform else fitted.input)
    timed = [
        replace(
            part,
            name=heads[0] if part.name == "head" else part.name,
            seconds=seconds.get(heads[0] if part.name == "head" else part.name),
        )
        for part in parts
    ]
    if TEACHER in run.config:
        teacher = build_teacher(run)
        images = torch.from_numpy(fitted.input)[None]
        name = f"unsplit teacher ({run.config.get(f'{TEACHER}.key')})"
        timed.append(profile_whole(name, teacher, lambda: teacher(images), repeats))
    threads = torch.get_num_threads()
    name, num_bytes = run.config.path.stem, len(payload.to_bytes())
    return Profile(name, size, fitted.input_size, num_bytes, threads, timed)
