"""Several models in one server, within a limit of memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from serving import FakeModel
from torch import nn

from ladon.errors import CheckpointError, ConfigError, UsageError
from ladon.modules import tensor_bytes
from ladon.serve.models import Library


class Shelf:
    """Loads models of 1,024 bytes by one letter, and notes it."""

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.models: dict[str, FakeModel] = {}
        self.ids = {letter: letter.encode() * 8 for letter in "abc"}

    def __call__(self, source: str) -> FakeModel:
        self.loaded.append(source)
        self.models[source] = FakeModel(source[-1], self.ids[source[-1]])
        return self.models[source]


def test_all_are_loaded_once_and_known_whether_loaded_or_not():
    shelf = Shelf()
    library = Library("abc", 2048, shelf)

    infos = library.open()

    assert [(i.name, i.encoder_id, i.num_bytes) for i in infos.values()] == [
        ("a", b"aaaaaaaa", 1024),
        ("b", b"bbbbbbbb", 1024),
        ("c", b"cccccccc", 1024),
    ]
    assert shelf.loaded == ["a", "b", "c"]
    assert library.num_loaded == 2
    assert shelf.models["a"].is_closed


def test_what_was_not_asked_for_longest_makes_room():
    shelf = Shelf()
    library = Library("abc", 2048, shelf)
    library.open()

    assert library.get("b") is shelf.models["b"]
    library.get("a")

    assert shelf.loaded == ["a", "b", "c", "a"]
    assert shelf.models["c"].is_closed
    assert not shelf.models["b"].is_closed
    library.close()
    assert shelf.models["b"].is_closed


def test_room_is_made_before_a_model_is_loaded_again():
    shelf = Shelf()
    library = Library("ab", 1024, shelf)
    library.open()
    before = shelf.models["b"]

    def load(source):
        assert before.is_closed
        return FakeModel(source, shelf.ids[source])

    library._load = load
    assert library.get("a").name == "a"


def test_a_checkpoint_that_changed_is_not_taken_for_the_old_one():
    shelf = Shelf()
    library = Library("ab", 1024, shelf)
    library.open()
    shelf.ids["a"] = b"another!"

    with pytest.raises(CheckpointError, match=r"a: its model has changed .* start it anew"):
        library.get("a")
    assert shelf.models["a"].is_closed
    assert library.get("b").name == "b"


def test_two_of_one_name_are_refused():
    with pytest.raises(ConfigError, match=r"--config x/a: a second model of the name a, as in a:"):
        Library(["a", "x/a"], 1 << 20, Shelf()).open()


def test_one_that_is_larger_than_the_limit_is_refused():
    with pytest.raises(UsageError, match=r"--memory: a alone has 0 MiB of weights"):
        Library("a", 1023, Shelf()).open()


def test_weights_count_in_all_their_forms():
    model = FakeModel("a")
    model.num_bytes = 100
    library = Library("a", 2048, lambda _: model)

    assert library.open()["a"].num_bytes == 1124


def test_tensors_are_counted_once_wherever_a_module_keeps_them():
    layer = nn.Linear(10, 10, bias=False)
    network = nn.Sequential(layer, layer, nn.BatchNorm1d(10, affine=False))
    network.packed = {"float32": (torch.zeros(3).to_mkldnn(), torch.zeros(5))}
    network.lookup = [np.zeros(7), layer.weight[0]]

    statistics = 2 * 40 + 8
    assert tensor_bytes(network) == 400 + statistics + 12 + 20 + 56
