"""The models of a server: loaded when they are asked, within a limit of memory."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ladon.codec.rates import Rates
from ladon.errors import CheckpointError, ConfigError, UsageError

if TYPE_CHECKING:
    from ladon.split.model import SplitModel

log = logging.getLogger(__name__)
_MIB = 1 << 20
_WARM_UP = 256  # pixels

Load = Callable[[str], "SplitModel"]
"""Loads the model of a config or checkpoint."""


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a model, loaded or not.

    Attributes:
        name: of the experiment.
        source: its config or checkpoint.
        encoder_id: 8 bytes.
        heads: what can be asked.
        num_bytes: of its weights, in all forms in which they are held.
        rates: that images can be encoded at; None: it has one.
    """

    name: str
    source: str
    encoder_id: bytes
    heads: tuple[str, ...]
    num_bytes: int
    rates: Rates | None = None


class Library:
    """Models by name, those that were asked last in memory. For one thread.

    Each is loaded once in the beginning: what does not load is found before anybody asks, and ids
    need no file beside the checkpoints that could tell an older one's.

    Args:
        sources: configs or checkpoints.
        most_bytes: of the weights of the models that are in memory together.
        load: loads one.
    """

    def __init__(self, sources: Sequence[str], most_bytes: int, load: Load) -> None:
        self._sources, self._most_bytes, self._load = tuple(sources), most_bytes, load
        self._loaded: OrderedDict[str, SplitModel] = OrderedDict()
        self.infos: dict[str, ModelInfo] = {}

    @property
    def num_loaded(self) -> int:
        """How many models are in memory."""
        return len(self._loaded)

    def open(self) -> Mapping[str, ModelInfo]:
        """Load each model; those that were last stay, as many as there is room for.

        Raises:
            UsageError: one cannot be loaded, is larger than the limit, or has another one's name.
        """
        for source in self._sources:
            model = self._load(source)
            size = _warmed_up(model)
            info = ModelInfo(
                model.name, source, model.encoder_id, tuple(model.heads), size, model.rates
            )
            if info.name in self.infos:
                raise ConfigError(
                    f"--config {source}: a second model of the name {info.name}, as in "
                    f"{self.infos[info.name].source}: rename the file of one"
                )
            if info.num_bytes > self._most_bytes:
                raise UsageError(
                    f"--memory: {info.name} alone has {info.num_bytes / _MIB:,.0f} MiB of weights, "
                    f"over {self._most_bytes / _MIB:,.0f} MiB"
                )
            self.infos[info.name] = info
            self._keep(model, info)
        return self.infos

    def get(self, name: str) -> SplitModel:
        """Return a model, which is loaded if it is not; what was not asked for longest makes room.

        Args:
            name: one of `infos`.

        Raises:
            CheckpointError: it is not the model any more that was loaded in the beginning.
            UsageError: it cannot be loaded any more.
        """
        if name in self._loaded:
            self._loaded.move_to_end(name)
            return self._loaded[name]
        info = self.infos[name]
        self._make_room(info.num_bytes)
        model = self._load(info.source)
        if model.encoder_id != info.encoder_id or tuple(model.heads) != info.heads:
            model.close()
            raise CheckpointError(
                f"{info.source}: its model has changed since the server was started: start it anew"
            )
        self._keep(model, info)
        return model

    def close(self) -> None:
        """Let go of all models."""
        while self._loaded:
            self._loaded.popitem()[1].close()

    def _keep(self, model: SplitModel, info: ModelInfo) -> None:
        self._make_room(info.num_bytes)
        self._loaded[info.name] = model
        log.info(
            "loaded %s: encoder %s, %s, %.1f MiB",
            info.name,
            info.encoder_id.hex(),
            ", ".join(info.heads),
            info.num_bytes / _MIB,
        )

    def _make_room(self, wanted: int) -> None:
        while self._loaded and wanted + self._num_bytes() > self._most_bytes:
            name, model = self._loaded.popitem(last=False)
            model.close()
            log.info("unloaded %s: --memory has no room for it any more", name)

    def _num_bytes(self) -> int:
        return sum(self.infos[name].num_bytes for name in self._loaded)


def _warmed_up(model: SplitModel) -> int:
    """Let a model answer once; return the bytes of its weights in all forms that it made of them.

    Weights are packed, and libraries set up what they need, for their first image: not on a
    client's time.
    """
    from ladon.modules import tensor_bytes  # torch, which loading has imported

    model.answer(model.encode(np.zeros((_WARM_UP, _WARM_UP, 3), np.uint8)))
    return model.num_bytes + tensor_bytes(model.network)
