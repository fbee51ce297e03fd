"""Numbers of classes that a file says more than once: of a model, its weights and its datasets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ladon.config.core.nodes import LazyCall
from ladon.config.validate.signatures import weights_classes
from ladon.config.validate.validator import ConfigNode, Validator, target_of
from ladon.errors import ConfigError

_NAMES = "class_names"


def check_weights_classes(
    validator: Validator, model: ConfigNode, target: Callable[..., Any], values: Mapping[str, Any]
) -> None:
    """Check that a model's pretrained weights are of as many classes, unless its head is reset.

    Args:
        validator: the validator.
        model: the model's section.
        target: what builds it.
        values: its arguments; weights as members of an enumeration or their names.
    """
    wanted = values.get("num_classes")
    flag = validator.child(model, "reset_head")
    is_reset = flag is not None and flag.value is True
    if not isinstance(wanted, int) or is_reset or validator.child(model, "src_ckpt") is not None:
        return
    weights, kwargs = weights_classes(target, values), validator.child(model, "kwargs")
    node = None if kwargs is None else validator.child(kwargs, "num_classes")
    if weights is None or node is None or wanted in (0, weights[1]):  # 0: timm's for no head
        return
    name, count = weights
    validator.add(
        node,
        f"the weights {name} are of {count} classes: add reset_head: true to {model.path}, which "
        f"leaves their class layers out, or write num_classes: {count}",
    )


def check_dataset_classes(validator: Validator) -> None:
    """Check the names of classes that datasets are given, and the models' numbers against them."""
    models = _numbers(validator)
    used = _used(validator)
    for key, names, needs_all in _named(validator):
        doubled = [name for name, count in Counter(map(str, names.value)).items() if count > 1]
        if doubled:
            validator.add(names, f"names '{doubled[0]}' twice: give each class a name of its own")
        count = len(names.value)
        for number in models if str(key) in used else ():
            if number.value < count or (needs_all and number.value > count):
                validator.add(
                    number,
                    f"datasets.{key} names {count} classes ({_NAMES}, {names.mark}): write "
                    f"num_classes: {count}, or correct the names",
                )


def _numbers(validator: Validator) -> list[ConfigNode]:
    """Return where models that answer say how many classes they have."""
    found = []
    for name in ("model", "student_model"):
        node: ConfigNode | None = validator.root()
        for key in ("models", name, "kwargs", "num_classes"):
            node = validator.child(node, key) if node is not None else None
        if node is not None and type(node.value) is int:
            found.append(node)
    return found


def _used(validator: Validator) -> set[str]:
    """Return the datasets that are trained, validated and tested on."""
    found: set[str] = set()

    def walk(node: ConfigNode) -> None:
        for key, child in validator.children(node):
            if key == "dataset_id":
                found.add(str(child.value))
            elif isinstance(child.value, dict):
                walk(child)

    for section in ("train", "test"):
        node = validator.child(validator.root(), section)
        if node is not None:
            walk(node)
    return found


def _named(validator: Validator) -> Iterator[tuple[Any, ConfigNode, bool]]:
    """Yield each dataset's key, its list of class names, and whether those are all classes."""
    from ladon.data.masks import MaskFolder
    from ladon.data.voc import VOCSegmentation

    datasets = validator.child(validator.root(), "datasets")
    for key, child in validator.children(datasets) if datasets is not None else ():
        lazy = child.value
        if not isinstance(lazy, LazyCall) or lazy.tag != "!import_call":
            continue
        node: ConfigNode | None = ConfigNode(child.path, lazy.value, child.mark)
        for name in ("init", "kwargs", _NAMES):
            node = validator.child(node, name) if node is not None else None
        if node is None or not isinstance(node.value, list):
            continue
        try:
            target = target_of(validator, lazy)[1]
        except ConfigError:  # listed with the tagged nodes
            continue
        yield key, node, target in (MaskFolder, VOCSegmentation)
