"""A measurement of the split from configs to results: models, images, ways, real links."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ladon.benchmark.machine import intraop_threads
from ladon.choices import HEADS
from ladon.config import load_config
from ladon.data.samples import sample_path
from ladon.errors import ConfigError, UsageError
from ladon.images import open_image
from ladon.measure.clock import Clock
from ladon.measure.codecs import PictureCodec
from ladon.measure.energy import Rapl
from ladon.measure.labelled import Labelled, spread
from ladon.measure.links import Link
from ladon.measure.model_profile import default_size, sample_picture
from ladon.measure.real_link import OPENERS
from ladon.measure.results import Measured
from ladon.measure.summary import Summary
from ladon.measure.timing import Plan
from ladon.measure.unsplit import Unsplit
from ladon.measure.ways import LADON, SINGLE, Identity, OnDevice, Picture, Split, Way
from ladon.report.results import backbone_in
from ladon.split.answers import Answers
from ladon.split.loading import load, open_run
from ladon.split.model import SplitModel
from ladon.split.prediction import PAYLOAD_SUFFIX, find_files
from ladon.sweeps.betas import PLACEHOLDER

logger = logging.getLogger(__name__)

_MOST_SENDING_S = 20.0  # of one way over one real link


@dataclass(frozen=True)
class Sources:
    """The configs of a measurement.

    Args:
        three_headed: of the three-headed model, `{beta}` for β's text; without it the key `beta`
            is set.
        single: of the single-task split models, likewise, in whatever order; may be empty.
        betas: β as the user typed them; empty: the configs' own.
        data_root: the scripts' `--data_root`.
    """

    three_headed: str
    single: tuple[str, ...] = ()
    betas: tuple[str, ...] = ()
    data_root: str | None = None

    def places(self, config: str) -> list[tuple[str, list[str]]]:
        """Return a config for each β: its path, and what is to be set in it."""
        if not self.betas:
            return [(config, [])]
        if PLACEHOLDER in config:
            return [(config.replace(PLACEHOLDER, beta), []) for beta in self.betas]
        return [(config, [f"beta={beta}"]) for beta in self.betas]


class Models:
    """All models of a measurement; a context manager.

    Attributes:
        three_headed: by β.
        single: by β, each by head.
        unsplit: by head.
        class_counts: by head.

    Args:
        sources: their configs.
        unsplit: load the unsplit models, too.
    """

    def __init__(self, sources: Sources, *, unsplit: bool = True) -> None:
        self._stack = ExitStack()
        self.three_headed: dict[float | None, SplitModel] = {}
        self.single: dict[float | None, dict[str, SplitModel]] = {}
        self.unsplit: dict[str, Unsplit] = {}
        try:
            self._load(sources, unsplit)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Models:
        """Return the models."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the models as they were."""
        self.close()

    def close(self) -> None:
        """Leave the models as they were."""
        self._stack.close()

    @property
    def first(self) -> SplitModel:
        """The three-headed model of the first β."""
        return next(iter(self.three_headed.values()))

    @property
    def backbone(self) -> str | None:
        """The three-headed models' backbone, as far as their configs' names tell it."""
        return backbone_in(self.first.name)

    def _load(self, sources: Sources, unsplit: bool) -> None:
        kinds = check_sources(sources)
        for path, assignments in sources.places(sources.three_headed):
            model = self._opened(path, assignments, sources.data_root)
            self.three_headed[_beta(path, assignments)] = model
        self.class_counts = count_classes(self.first)
        for config, kind in kinds.items():
            for path, assignments in sources.places(config):
                of_beta = self.single.setdefault(_beta(path, assignments), {})
                of_beta[kind] = self._opened(path, assignments, sources.data_root)
            if unsplit:
                path, assignments = sources.places(config)[0]
                whole = Unsplit.load(path, assignments=assignments, data_root=sources.data_root)
                self._stack.callback(whole.close)
                self.unsplit[kind] = whole

    def _opened(self, path: str, assignments: Sequence[str], data_root: str | None) -> SplitModel:
        model = load(path, assignments=assignments, data_root=data_root)
        return self._stack.enter_context(model)

    def ways(self, codecs: Sequence[PictureCodec], *, on_device: bool = True) -> list[Way]:
        """Return the ways of all models.

        Args:
            codecs: of the pictures; without unsplit models there are none.
            on_device: whether the lightweight models, whose weights are random, are among them.
        """
        found: list[Way] = []
        if on_device:
            found.append(OnDevice(self.first.fitting, self.class_counts))
        if self.unsplit:
            found += [Picture(codec, self.first.fitting, self.unsplit) for codec in codecs]
        for beta, of_beta in self.single.items():
            models = [of_beta[head] for head in HEADS]
            found.append(Split(_identity(SINGLE, beta), models))
        found += [Split(_identity(LADON, b), [model]) for b, model in self.three_headed.items()]
        return found

    def labelled(self, sources: Sources) -> dict[str, Labelled]:
        """Return the test sets of the single-task models by head.

        Raises:
            UsageError: no config names them.
        """
        if not sources.single:
            raise UsageError(
                "--accuracy: the tasks' data are those of --single: name three configs"
            )
        names, sets = self.first.class_names, {}
        for config, head in check_sources(sources).items():
            path, assignments = sources.places(config)[0]
            count = self.class_counts[head]
            sets[head] = Labelled.open(path, names[head], count, assignments, sources.data_root)
        return {head: sets[head] for head in HEADS}


def check_sources(sources: Sources) -> dict[str, str]:
    """Return the head that each single-task config answers with, in the order of `HEADS`.

    Raises:
        UsageError: they are not one three-headed model and one model for each task, or none.
        ConfigError: a config cannot be used.
    """
    path, assignments = sources.places(sources.three_headed)[0]
    run, kind = open_run(path, assignments=assignments, data_root=sources.data_root)
    if run.student_section["key"] != "ladon":
        raise UsageError(
            f"--config {path}: a model for {kind} alone: name the config of a three-headed one "
            "(key: ladon), and this one with --single"
        )
    kinds: dict[str, str] = {}
    for config in sources.single:
        path, assignments = sources.places(config)[0]
        run, kind = open_run(path, assignments=assignments, data_root=sources.data_root)
        if run.student_section["key"] == "ladon" or kind in kinds.values():
            raise UsageError(
                f"--single {path}: a second model for {kind}: one for each task is needed"
            )
        kinds[config] = kind
    return {config: kind for head in HEADS for config, kind in kinds.items() if kind == head}


def count_classes(model: SplitModel) -> dict[str, int]:
    """Return the number of a three-headed model's classes by head, background included.

    By what its last layers give: names may be unknown, and tensors are in fused layers' form.
    """
    network: Any = model.network
    last = {
        "classification": getattr(network, network.family.head[-1]),
        "detection": network.roi_heads.box_predictor,
        "segmentation": network.classifier,
    }
    counts: dict[str, int] = {}
    with ExitStack() as hooks:
        for head, module in last.items():

            def note(_module: Any, _inputs: Any, output: Any, head: str = head) -> None:
                logits = output[0] if head == "detection" else output
                counts[head] = logits.shape[1]

            hooks.callback(module.register_forward_hook(note).remove)
        model.answer(model.encode(sample_picture(default_size(model.fitting))))
    return counts


def _identity(kind: str, beta: float | None) -> Identity:
    return Identity(kind, kind if beta is None else f"{kind} β {beta:g}", beta, kind)


def _beta(path: str, assignments: Sequence[str]) -> float | None:
    return load_config(path, assignments=assignments).beta


def find_images(given: Sequence[str], sources: Sources, number: int) -> list[Path]:
    """Return the image files to measure with.

    Args:
        given: files and folders; empty: the test set of the three-headed model's config.
        sources: that config.
        number: at most so many, of a test set spread over it.

    Raises:
        UsageError: there is none, or a folder has none.
    """
    if not given:
        return _images_of_config(sources, number)
    found = [file for file in find_files(given) if file.suffix.lower() != PAYLOAD_SUFFIX]
    if not found:
        raise UsageError(f"--images {' '.join(given)}: no image is there, only payloads")
    return found[:number]


def _images_of_config(sources: Sources, number: int) -> list[Path]:
    path, assignments = sources.places(sources.three_headed)[0]
    run, _ = open_run(path, assignments=assignments, data_root=sources.data_root)
    dataset_id = run.config.get("test.test_data_loader.dataset_id")
    if dataset_id is None:
        raise ConfigError(f"{path}: has no test.test_data_loader: name images with --images")
    dataset = run.build_dataset(dataset_id)
    paths = [sample_path(dataset, index) for index in spread(len(dataset), number)]
    if not paths or None in paths:
        raise UsageError(f"{dataset_id}: does not tell its images' files: name some with --images")
    return [Path(path) for path in paths if path is not None]


def loaders(paths: Sequence[Path]) -> list[Callable[[], Image.Image]]:
    """Return what loads each image."""
    return [lambda path=path: open_image(path) for path in paths]  # type: ignore[misc]


def over_real_links(
    kind: str,
    ways: Sequence[Way],
    images: Sequence[Callable[[], Image.Image]],
    measured: Measured,
    plan: Plan,
) -> list[dict[str, Any]]:
    """Send what the ways send through real links, and compare with the sum of the terms.

    Args:
        kind: 'socket' or 'veth'.
        ways: those that send nothing are left out.
        images: loaders of the first images.
        measured: tells how much each way sends.
        plan: threads of each half.

    Returns:
        Rows of JSON values: link, way, n, the link's own round trip, and end-to-end seconds beside
        the sum of the terms of the same requests.
    """
    rows = []
    for link in measured.links:
        for way in ways:
            name = way.identity.name
            if measured.sends(name):
                expected = link.transmit_seconds(float(measured.num_bytes(name).mean()))
                number = max(1, min(len(images), int(_MOST_SENDING_S / expected)))
                rows.append(_over(kind, link, way, images[:number], plan))
    return rows


def _over(
    kind: str,
    link: Link,
    way: Way,
    images: Sequence[Callable[[], Image.Image]],
    plan: Plan,
) -> dict[str, Any]:
    """Answer images in a way over a real link."""
    server = Clock()

    def serve(parts: list[bytes]) -> bytes:
        with intraop_threads(plan.server_threads):
            return _as_bytes(way.server(parts, server))

    totals, sums = [], []
    with OPENERS[kind](link.bits_per_s, serve) as connection:
        trip = connection.round_trip()
        for load_image in images:
            image, device, before = load_image(), Clock(), sum(server.seconds.values())
            start = time.perf_counter()
            with intraop_threads(plan.device_threads):
                messages = way.device(image, device)
            connection.ask(messages)
            totals.append(time.perf_counter() - start)
            spent = sum(device.seconds.values()) + sum(server.seconds.values()) - before
            sums.append(spent + link.transmit_seconds(sum(map(len, messages))) + trip)
    return {
        "link": link.name,
        "kind": kind,
        "way": way.identity.name,
        "n": len(totals),
        "round_trip_s": trip,
        "measured_s": Summary.of(totals).to_plain(),
        "sum_s": Summary.of(sums).to_plain(),
    }


def _as_bytes(answers: Mapping[str, Any]) -> bytes:
    """Return what the device is told; of an unsplit model, whose answers are tensors, nothing."""
    plain = {head: a.to_plain() for head, a in answers.items() if isinstance(a, Answers)}
    return json.dumps(plain).encode()


def device_joules(
    rapl: Rapl, ways: Sequence[Way], images: Sequence[Callable[[], Image.Image]]
) -> dict[str, float]:
    """Return this machine's joules for the device half of an image, by way."""
    loaded = [load_image() for load_image in images]

    def work(way: Way) -> None:
        for image in loaded:
            way.device(image, Clock())

    return {way.identity.name: rapl.measure(lambda w=way: work(w)) / len(loaded) for way in ways}  # type: ignore[misc]
