"""Part `throughput`: `-test_only` of the classifier over many images, and each of its parts alone.

What it is compared with is sc2bench's own path, image by image, on fewer images.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Subset

from ladon.benchmark.evaluation import evaluate_ours
from ladon.benchmark.machine import clock_of, peak_device_mib, reset_peak
from ladon.benchmark.parts import Bench
from ladon.benchmark.published import evaluate_published
from ladon.benchmark.results import Measurement, PartResult, Spread
from ladon.benchmark.workload import Workload, code_at_published_rate, make_workload
from ladon.bottlenecks import Coding, Payloads
from ladon.bottlenecks.encoder import Encoder
from ladon.codec import LatentCoder
from ladon.data.device_input import split_input
from ladon.data.fast_input import use_fast_input
from ladon.data.loaders import build_eval_loader
from ladon.engine.evaluate import Evaluation
from ladon.models import find_bottleneck
from ladon.models.inference import inference
from ladon.models.precision import forward_only

_TASK = "image_classification"
# precision and input of the evaluations
WAYS = (("float32", "reference"), ("bf16", "reference"), ("bf16", "fast"))
_SECONDS = 8.0  # that one evaluation may take
_LEAST_BATCHES = 16
_FIRST_BATCHES = 8  # that start the workers and choose the algorithms


@dataclass(frozen=True)
class Size:
    """How much is evaluated.

    Attributes:
        files: images that are written.
        images: images of an evaluation, at most: the files again and again.
        batch: images of a batch.
        published: images of the published way.
    """

    files: int
    images: int
    batch: int
    published: int

    @classmethod
    def of(cls, device: torch.device, *, quick: bool) -> Size:
        """A GPU is given so much that starting the workers does not count."""
        if quick:
            return cls(2, 4, 2, 2)
        return cls(512, 6144, 64, 96) if device.type == "cuda" else cls(8, 8, 4, 4)

    def fitting(self, rate: float) -> int:
        """How many images to evaluate at so many images/s, the start of the workers apart."""
        batches = int(_SECONDS * rate) // self.batch
        return min(self.images, self.batch * max(_LEAST_BATCHES, batches))


@dataclass(frozen=True)
class Way:
    """One way to evaluate, measured.

    Attributes:
        rates: images/s of each repeat.
        memory: most MiB that torch held on the GPU; None on a CPU.
        found: what the last evaluation found.
    """

    rates: list[float]
    memory: float | None
    found: Any


def measure(bench: Bench) -> PartResult:
    """Evaluates over and over; then times the parts alone."""
    device = torch.device(bench.device)
    size = Size.of(device, quick=bench.quick)
    work = make_workload(_TASK, bench.folder, size.files)
    code_at_published_rate(work.model)
    kwargs = (work.loader.get("kwargs") or {}) | {"batch_size": size.batch}
    work.loader = dict(work.loader) | {"kwargs": kwargs}
    reference = copy.deepcopy(work.model).to(device)
    theirs = _published(work, reference, device, size.published)
    del reference
    ours = work.model.to(device, memory_format=torch.channels_last)
    found = bench.begin(files=size.files, batch=size.batch)
    found.facts["loader workers asked for"] = kwargs.get("num_workers")
    found.facts["images of the published way"] = size.published
    for precision, source in WAYS:
        way = _ours(work, ours, device, size, precision, source, bench.repeats)
        _note(found, f"{precision}, input {source}", way, theirs)
    _parts_alone(work, ours, device, size, bench.repeats, found)
    return found


def repeated(work: Workload, images: int) -> Workload:
    """The same work on so many images: its own, again and again."""
    order = [n % len(work.dataset) for n in range(images)]
    return replace(work, dataset=Subset(work.dataset, order))


def _published(work: Workload, model: nn.Module, device: torch.device, images: int) -> Way:
    """Once only: it is slow."""
    clock = clock_of(device)
    evaluate_published(repeated(work, 2), model, work.task, device)
    reset_peak(device)
    start = clock()
    found = evaluate_published(repeated(work, images), model, work.task, device)
    return Way([images / (clock() - start)], peak_device_mib(device), found)


def _ours(
    work: Workload,
    model: nn.Module,
    device: torch.device,
    size: Size,
    precision: str,
    source: str,
    repeats: int,
) -> Way:
    """Evaluates as `-test_only` with ``--precision`` and ``--input`` does."""
    if source == "fast":
        work = replace(work, dataset=copy.deepcopy(work.dataset))
        use_fast_input(work.dataset)
    clock = clock_of(device)

    def run(images: int) -> tuple[float, Evaluation]:
        start = clock()
        found = evaluate_ours(repeated(work, images), model, work.task, device, precision)
        return clock() - start, found

    images = min(size.images, _FIRST_BATCHES * size.batch)
    first, _ = run(images)
    if images < size.images:
        second, _ = run(2 * images)
        images = size.fitting(images / max(1e-3, second - first))
    reset_peak(device)
    runs = [run(images) for _ in range(repeats)]
    rates = [images / seconds for seconds, _ in runs]
    return Way(rates, peak_device_mib(device), runs[-1][1])


def _note(found: PartResult, title: str, ours: Way, theirs: Way) -> None:
    """Adds a way's lines and facts."""
    evaluation: Evaluation = ours.found
    found.measurements.append(
        Measurement(
            f"-test_only: {title} against published",
            "images/s",
            Spread.of(ours.rates),
            Spread.of(theirs.rates),
            Spread.of(rate / theirs.rates[0] for rate in ours.rates),
        )
    )
    if ours.memory is not None:
        found.measurements.append(
            Measurement(
                f"most memory on the GPU: {title} against published",
                "MiB",
                Spread.of([ours.memory]),
                Spread.of([theirs.memory]),
                Spread.of([theirs.memory / ours.memory]),
            )
        )
    sizes = [kib for _, _, kib in evaluation.sizes]
    pairs = list(zip(sizes, theirs.found.sizes, strict=False))
    found.facts[title] = {
        "images": evaluation.num_images,
        "payload bytes, mean": round(evaluation.payload_bytes["mean"]),
        "equal payload sizes": f"{sum(a == b for a, b in pairs)} of {len(pairs)}",
        "s waited for data": round(evaluation.loading_seconds, 2),
        "of s": round(evaluation.seconds, 2),
    }


def _parts_alone(
    work: Workload,
    model: nn.Module,
    device: torch.device,
    size: Size,
    repeats: int,
    found: PartResult,
) -> None:
    """Adds the rate of each part while nothing else runs."""
    clock = clock_of(device)
    repeats = repeats if device.type == "cpu" else 5 * repeats  # a GPU's are short

    def add(name: str, function: Callable[[], Any], images: int, times: int = repeats) -> None:
        rates = []
        for _ in range(times):
            start = clock()
            function()
            rates.append(images / (clock() - start))
        found.measurements.append(Measurement(f"alone: {name}", "images/s", Spread.of(rates)))

    many = repeated(work, min(size.images, 2048))
    add("loading, with the start of its workers", lambda: _load(many), len(many.dataset), 1)
    batch = torch.stack([work.dataset[n % size.files][0] for n in range(size.batch)]).to(device)
    bottleneck = find_bottleneck(model)
    coder = LatentCoder(bottleneck.entropy_bottleneck)
    for precision in ("float32", "bf16"):
        with inference(model, "full", precision=precision), forward_only(device, precision):
            encode = Encoder(bottleneck.encoder)
            latent = encode(batch)
            payloads, decoded = coder.encode(latent), coder.quantize(latent)
            if precision == "float32":  # these are the same in both
                add("encoder", lambda encode=encode: encode(batch), size.batch)
                add("encoding", lambda latent=latent: coder.encode(latent), size.batch)
                shape = latent.shape[-2:]
                add("decoding", lambda p=payloads, s=shape: coder.decode(p, s), size.batch)
            with taking_latents(model):
                model(decoded)
                name = f"decoder, body and head, {precision}"
                add(name, lambda latent=decoded: model(latent), size.batch)


def _load(work: Workload) -> None:
    """Loads as an evaluation on a GPU does: as bytes, by as many workers."""
    as_bytes, _ = split_input(work.dataset)
    for _ in build_eval_loader(as_bytes, work.loader):
        pass


@contextmanager
def taking_latents(model: nn.Module) -> Iterator[None]:
    """Makes a model take latents [N, C, h, w] in the place of images while it is open."""
    bottleneck = find_bottleneck(model)
    with bottleneck.coded_by(_Taking(bottleneck, "encode", Payloads())):
        yield


class _Taking(Coding):
    def encode(self, images: Tensor) -> dict[str, Any]:
        return {"strings": images, "shape": images.shape[-2:]}
