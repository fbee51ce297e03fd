"""The models of a measurement of the split: where they come from, and the ways that they make."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from ladon.choices import HEADS
from ladon.codec.rates import check_asked
from ladon.config import load_config
from ladon.engine.run import Run
from ladon.errors import UsageError
from ladon.measure.codecs import PictureCodec
from ladon.measure.labelled import Labelled
from ladon.measure.model_profile import default_size, sample_picture
from ladon.measure.unsplit import Unsplit
from ladon.measure.ways import LADON, SINGLE, Identity, OnDevice, Picture, Split, Way
from ladon.report.results import backbone_in
from ladon.split.loading import load, open_run
from ladon.split.model import SplitModel
from ladon.sweeps.betas import PLACEHOLDER, is_beta


@dataclass(frozen=True)
class Place:
    """A config that a model is loaded from.

    Attributes:
        path: of the config.
        assignments: what is to be set in it.
        rates: β that the model is measured at, if it is for every rate; else empty.
    """

    path: str
    assignments: tuple[str, ...] = ()
    rates: tuple[float, ...] = ()


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

    def places(self, config: str) -> list[Place]:
        """Return a config for each β; of a model for every rate, one for all of them."""
        if not self.betas:
            return [Place(config)]
        if PLACEHOLDER in config:
            return [Place(config.replace(PLACEHOLDER, beta)) for beta in self.betas]
        if load_config(config, data_root=self.data_root).is_for_every_rate:
            return [Place(config, rates=tuple(map(_as_rate, self.betas)))]
        return [Place(config, (f"beta={beta}",)) for beta in self.betas]

    def open(self, place: Place) -> tuple[Run, str]:
        """Return a config's run, and the kind of its model."""
        return open_run(place.path, assignments=place.assignments, data_root=self.data_root)


def _as_rate(beta: str) -> float:
    if not is_beta(beta):
        raise UsageError(f"--betas {beta}: no number above 0")
    return float(beta)


class Models:
    """All models of a measurement; a context manager.

    Attributes:
        three_headed: by β; a model for every rate stands at several.
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
        for place in sources.places(sources.three_headed):
            self.three_headed.update(self._opened(place, sources.data_root))
        self.class_counts = count_classes(self.first)
        for config, kind in kinds.items():
            places = sources.places(config)
            for place in places:
                for beta, model in self._opened(place, sources.data_root).items():
                    self.single.setdefault(beta, {})[kind] = model
            if unsplit:
                path, assignments = places[0].path, places[0].assignments
                whole = Unsplit.load(path, assignments=assignments, data_root=sources.data_root)
                self._stack.callback(whole.close)
                self.unsplit[kind] = whole

    def _opened(self, place: Place, data_root: str | None) -> dict[float | None, SplitModel]:
        """Return a config's model by the β that it is measured at."""
        path, assignments = place.path, place.assignments
        model = load(path, assignments=assignments, data_root=data_root)
        self._stack.enter_context(model)
        for rate in place.rates:
            check_asked(model.rates, model.name, rate, None)
            if model.rates is not None:
                model.rates.level(rate)
        own = load_config(path, assignments=assignments, data_root=data_root).beta
        return dict.fromkeys(place.rates or (own,), model)

    def on_server(self) -> dict[str, dict[str, int]]:
        """Return how many models of each kind a server holds, and the bytes of their weights."""
        kinds = {
            SINGLE: [model for of_beta in self.single.values() for model in of_beta.values()],
            LADON: list(self.three_headed.values()),
        }
        found = {}
        for kind, of_kind in kinds.items():
            models = list({id(model): model for model in of_kind}.values())
            if models:
                held = sum(model.num_bytes for model in models)
                found[kind] = {"models": len(models), "bytes": held}
        return found

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
            found.append(Split(_identity(SINGLE, beta), models, beta))
        for beta, model in self.three_headed.items():
            found.append(Split(_identity(LADON, beta), [model], beta))
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
            place, count = sources.places(config)[0], self.class_counts[head]
            sets[head] = Labelled.open(
                place.path, names[head], count, place.assignments, sources.data_root
            )
        return {head: sets[head] for head in HEADS}


def check_sources(sources: Sources) -> dict[str, str]:
    """Return the head that each single-task config answers with, in the order of `HEADS`.

    Raises:
        UsageError: they are not one three-headed model and one model for each task, or none.
        ConfigError: a config cannot be used.
    """
    place = sources.places(sources.three_headed)[0]
    run, kind = sources.open(place)
    if run.student_section["key"] != "ladon":
        raise UsageError(
            f"--config {place.path}: a model for {kind} alone: name the config of a three-headed "
            "one (key: ladon), and this one with --single"
        )
    kinds: dict[str, str] = {}
    for config in sources.single:
        place = sources.places(config)[0]
        run, kind = sources.open(place)
        if run.student_section["key"] == "ladon" or kind in kinds.values():
            raise UsageError(
                f"--single {place.path}: a second model for {kind}: one for each task is needed"
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
