"""Upgrades of the legacy schema beyond renaming: one function for each kind of section.

A public function takes the upgrade, the renamed mapping (which it may change) and its path for
errors, and returns what stands there now.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ladon.config.core.aliases import TRANSFORMS
from ladon.config.core.merge import merge
from ladon.config.core.nodes import (
    ConfigList,
    ConfigMap,
    LazyCall,
    LocatedError,
    SourceLocation,
    kind_of,
    suggest,
)
from ladon.config.legacy.form import CURRENT, LEGACY, PART, Upgrade, map_at, take

_DATASET_KEYS = ("name", "type", "root", "splits")
_COCO = "cocodetect"
_COCO_NAMES = {"images": "img_dir_path", "annotations": "ann_file_path"}
# Where a legacy name is kept now; all others are torchvision's (and `aliases` has a say).
_DATASETS = {_COCO: "ladon.data.coco.coco_dataset"}
_TRANSFORMS = {
    "ladon.data.transforms": TRANSFORMS,
    "sc2bench.transforms.misc": (
        "ClearTargetTransform",
        "AdaptivePad",
        "SimpleQuantizer",
        "SimpleDequantizer",
    ),
    "sc2bench.transforms.codec": (
        "PillowImageModule",
        "PillowTensorModule",
        "BPGModule",
        "VTMModule",
    ),
}
LOADER_KWARGS = ("batch_size", "num_workers", "drop_last", "pin_memory")
_SAMPLERS = {True: "RandomSampler", False: "SequentialSampler"}
_COLLATE_FUNCTIONS = {"default_collate_w_pillow": "default_collate_w_pil"}
_TERM_NAMES = {"KDLoss": "kd", "CrossEntropyLoss": "ce"}
_MODEL_LOSSES = {"extract_org_loss_dict": "extract_model_loss_dict"}
_OUTPUT = {"is_from_teacher": False, "module_path": ".", "io": "output"}
_KD_OUTPUTS = {
    "student_module_path": ".",
    "student_module_io": "output",
    "teacher_module_path": ".",
    "teacher_module_io": "output",
}


def dataset_schema(entry: Any) -> str | None:
    """Return the schema of one entry of `datasets`; None if nothing in it tells."""
    if isinstance(entry, LazyCall):
        return CURRENT
    keys = set(entry) if isinstance(entry, ConfigMap) else set()
    return LEGACY if keys & {"splits", "type"} else CURRENT if keys & {"init", "key"} else None


def datasets(work: Upgrade, node: ConfigMap, path: str) -> ConfigMap:
    """Replace each legacy entry by its splits, under their ids."""
    result = ConfigMap(node.mark)
    for name, entry in node.items():
        if dataset_schema(entry) != LEGACY:
            result.put(name, entry, node.mark_of(name))
            continue
        for dataset_id, dataset, mark in _splits(work, entry, f"{path}.{name}"):
            result.put(dataset_id, dataset, mark)
    return result


def _splits(
    work: Upgrade, entry: ConfigMap, path: str
) -> Iterator[tuple[str, LazyCall, SourceLocation | None]]:
    splits = entry.get("splits")
    if not isinstance(splits, ConfigMap) or not entry.get("type"):
        missing = "type" if isinstance(splits, ConfigMap) else "splits"
        near = suggest(missing, set(entry) - set(_DATASET_KEYS))
        raise LocatedError(entry.mark, f'{path} needs "{missing}"{near}')
    kind = work.text(entry["type"], entry.mark_of("type"), f"{path}.type")
    for name, split in splits.items():
        mark, where = splits.mark_of(name), f"{path}.splits.{name}"
        if not isinstance(split, ConfigMap) or split.get("dataset_id") is None:
            raise LocatedError(mark, f'{where} needs "dataset_id"')
        place = split.mark_of("dataset_id")
        dataset_id = work.text(split["dataset_id"], place, f"{where}.dataset_id")
        yield dataset_id, _dataset(work, kind, split, mark, where), place


def _dataset(
    work: Upgrade, kind: str, split: ConfigMap, mark: SourceLocation | None, path: str
) -> LazyCall:
    own = split.copy()
    take(own, "dataset_id")
    compose = "torchvision.transforms.Compose"
    if kind == _COCO:
        compose = _transform("CustomCompose")
        if own.get("transforms_params"):
            take(own, "random_horizontal_flip")  # the loader ignored it beside a list (D7)
    else:
        inner = take(own, "params") or take(own, "kwargs")
        for key in own:
            text = f"{path}.{key} is not supported: write the dataset in the current schema"
            raise LocatedError(own.mark_of(key), text + suggest(key, ("params",)))
        own = inner.copy() if isinstance(inner, ConfigMap) else ConfigMap(mark)
    kwargs = ConfigMap(own.mark)
    for key, value in own.items():
        argument = key.removesuffix("_params")
        if argument in ("transform", "target_transform", "transforms") and argument != key:
            name = own.get(f"{argument}_compose_cls")
            used = compose if name is None else _transform(name)
            value, key = _compose(work, value, used, own.mark_of(key), f"{path}.{key}"), argument
        elif key.endswith("_compose_cls"):
            continue
        kwargs.put(_COCO_NAMES.get(key, key), value, own.mark_of(key))
    dotted = kind if "." in kind else _DATASETS.get(kind, f"torchvision.datasets.{kind}")
    return _call(dotted, kwargs, mark)


def _compose(
    work: Upgrade, node: Any, compose: str, mark: SourceLocation | None, path: str
) -> LazyCall | None:
    """Return the composition of a legacy list of {type, params} (or a mapping, by its keys)."""
    if not node:
        return None
    if isinstance(node, ConfigMap):
        entries = [node[key] for key in sorted(node)]
    elif isinstance(node, ConfigList):
        entries = list(node)
    else:
        raise LocatedError(mark, f"{path} must be a list of transforms, not {kind_of(node)}")
    steps = ConfigList(mark)
    for index, entry in enumerate(entries):
        step = work.apply(entry, PART, f"{path}.{index}")
        if isinstance(step, ConfigMap):
            if not isinstance(step.get("key"), str):
                raise LocatedError(step.mark, f'{path}.{index} needs "type"')
            step = _call(_transform(step["key"]), step.get("kwargs"), step.mark)
        steps.put(step, step.mark if isinstance(step, LazyCall) else mark)
    return _call(compose, map_at(mark, transforms=steps), mark)


def model_kwargs(work: Upgrade, node: ConfigMap, path: str) -> ConfigMap:
    """Compose the transforms in front of a model."""
    value = node.get("pre_transform")
    if isinstance(value, ConfigList):
        compose, mark = "torchvision.transforms.Compose", node.mark_of("pre_transform")
        node["pre_transform"] = _compose(work, value, compose, mark, f"{path}.pre_transform")
    return node


def student(work: Upgrade, node: ConfigMap, path: str) -> ConfigMap:
    """Take a URL for what it is: weights to start from, nothing that training can write."""
    if str(node.get("dst_ckpt")).startswith(("http://", "https://")):
        mark = node.mark_of("dst_ckpt")
        node.put("src_ckpt", take(node, "dst_ckpt"), mark)
    return node


def loader(work: Upgrade, node: ConfigMap, path: str) -> ConfigMap:
    """Gather a loader's own arguments in `kwargs`; name its sampler and its groups."""
    mark = node.mark_of("random_sample")
    is_random = take(node, "random_sample")
    if is_random is not None:
        if not isinstance(is_random, bool):
            raise LocatedError(mark, f"{path}.random_sample must be true or false")
        key = f"torch.utils.data.{_SAMPLERS[is_random]}"
        sampler = LazyCall("!import_get", map_at(mark, key=key), mark)
        node.put("sampler", map_at(mark, class_or_func=sampler), mark)
    batches = node.get("batch_sampler")
    kwargs = node.get("kwargs")
    kwargs = kwargs.copy() if isinstance(kwargs, ConfigMap) else ConfigMap(node.mark)
    for key in LOADER_KWARGS:
        if key in node:
            place = node.mark_of(key)
            value = take(node, key)
            # batches come from their sampler
            if key == "num_workers" or not isinstance(batches, ConfigMap):
                kwargs.put(key, value, place)
    if kwargs:
        node.put("kwargs", kwargs, kwargs.mark)
    if isinstance(batches, ConfigMap):
        _group(work, batches, node, path)
    if renamed := _look_up(_COLLATE_FUNCTIONS, node.get("collate_fn")):
        node["collate_fn"] = renamed
    return node


def _group(work: Upgrade, batches: ConfigMap, loader: ConfigMap, path: str) -> None:
    """Replace a batch sampler's number of groups by the groups of the loader's dataset."""
    kwargs, name = batches.get("kwargs"), "aspect_ratio_group_factor"
    if not isinstance(kwargs, ConfigMap) or name not in kwargs:
        return
    mark, kwargs = kwargs.mark_of(name), kwargs.copy()
    place = loader.mark_of("dataset_id")
    dataset_id = work.text(loader.get("dataset_id"), place, f"{path}.dataset_id")
    factor = take(kwargs, name)
    arguments = map_at(mark, dataset=f"${{datasets.{dataset_id}}}", **{name: factor})
    groups = _call("ladon.data.samplers.create_aspect_ratio_groups", arguments, mark)
    kwargs.put("group_ids", groups, mark)
    batches["kwargs"] = kwargs


def scheduler(work: Upgrade, node: ConfigMap, path: str) -> ConfigMap:
    """Drop 'None', which stood for the length of the stage's loader: the engine knows it."""
    kwargs = node.get("kwargs")
    if isinstance(kwargs, ConfigMap) and kwargs.get("num_iterations", 0) in (None, "None"):
        node["kwargs"] = kwargs = kwargs.copy()
        take(kwargs, "num_iterations")
    return node


def stage(work: Upgrade, node: ConfigMap, path: str) -> ConfigMap:
    """Drop `apex`; give a model that returns its own losses the targets it needs for that."""
    take(node, "apex")
    criterion = node.get("criterion")
    extract = criterion.get("func2extract_model_loss") if isinstance(criterion, dict) else None
    if extract in _MODEL_LOSSES.values():
        name = "student" if "student" in node else "model"
        model = node.get(name)
        model = model.copy() if isinstance(model, ConfigMap) else ConfigMap(node.mark)
        if model.get("forward_proc") is None:
            model.put("forward_proc", "forward_batch_target", node.mark_of(name))
            node.put(name, model, node.mark_of(name))
    return node


def criterion(work: Upgrade, node: ConfigMap, path: str) -> ConfigMap:
    """Make the model's own losses a `model_term`, a loss on its outputs one of the `sub_terms`."""
    mark = node.mark
    is_whole = "key" in node
    for key in ("org_term", "sub_terms", "kwargs"):
        if not isinstance(node.get(key), ConfigMap | None):
            text = f"{path}.{key} must be a mapping, not {kind_of(node[key])}"
            raise LocatedError(node.mark_of(key), text)
    extract, org = take(node, "func2extract_org_loss"), take(node, "org_term")
    terms, kwargs = take(node, "sub_terms") or ConfigMap(mark), node.get("kwargs")
    kwargs = ConfigMap(mark) if kwargs is None else kwargs.copy()
    if node.get("key") in ("GeneralizedCustomLoss", "CustomLoss"):
        node["key"] = "WeightedSumLoss"
    factor = None if org is None else org.get("factor")
    if factor is not None and factor != 0:
        criterion = org.get("criterion")
        if model_loss := _look_up(_MODEL_LOSSES, extract):
            node.put("func2extract_model_loss", model_loss, org.mark)
            kwargs.put("model_term", map_at(org.mark, weight=factor), org.mark)
        elif isinstance(criterion, ConfigMap):
            name = _look_up(_TERM_NAMES, criterion.get("key")) or "org"
            name = "org" if name in terms else name
            terms.put(name, _org_term(work, org, criterion, extract, path), org.mark)
        elif not is_whole:
            text = f"{path}.org_term: say it in the current schema, under criterion.kwargs"
            raise LocatedError(org.mark, text)
    if terms:
        kwargs.put("sub_terms", terms, terms.mark)
    if kwargs:
        node.put("kwargs", kwargs, mark)
    return node


def _org_term(
    work: Upgrade, org: ConfigMap, criterion: ConfigMap, extract: Any, path: str
) -> ConfigMap:
    """Return the term for a loss on the model's outputs."""
    mark, factor = org.mark, org["factor"]
    if criterion.get("key") == "KDLoss":
        own = criterion.get("kwargs")
        if own is None or isinstance(own, ConfigMap):  # validation says what else it must not be
            own = merge(map_at(mark, **_KD_OUTPUTS), own or ConfigMap(mark))
        criterion = map_at(mark, key="KDLoss", kwargs=own)
        return map_at(mark, criterion=criterion, weight=factor)
    inputs = map_at(mark, **_OUTPUT)
    compared = map_at(mark, input=inputs, target=map_at(mark, uses_label=True))
    wrapper = map_at(mark, key="SimpleLossWrapper", kwargs=compared)
    if isinstance(factor, ConfigMap):
        wrapper["key"] = "DictLossWrapper"
        compared.put("weights", factor, org.mark_of("factor"))
        factor = 1.0
    elif extract is not None and extract != "extract_simple_org_loss":
        text = f"{path}.org_term.factor needs a number for each output of the model"
        raise LocatedError(org.mark_of("factor"), f"{text}, like {{out: 1.0, aux: 0.5}}")
    return map_at(mark, criterion=criterion, criterion_wrapper=wrapper, weight=factor)


def term(work: Upgrade, node: ConfigMap, path: str) -> ConfigMap:
    """Put a term's `params` (input, target) into a wrapper of the loss."""
    compared = node.get("criterion_wrapper")
    if not isinstance(compared, ConfigMap) or "key" in compared:
        if compared is None:
            take(node, "criterion_wrapper")
        return node
    compared, mark = compared.copy(), compared.mark
    named = work.apply(take(compared, "wrapper"), PART, f"{path}.params.wrapper")
    key = (named.get("key") if isinstance(named, ConfigMap) else None) or "SimpleLossWrapper"
    target = compared.get("target")
    if isinstance(target, ConfigMap) and target.get("io") is target.get("module_path") is None:
        compared["target"] = map_at(target.mark, uses_label=True)
    node["criterion_wrapper"] = map_at(mark, key=key, kwargs=compared)
    return node


def _look_up(table: Mapping[str, str], key: Any) -> str | None:
    """Return a table's entry; None also for what a wrong file may have in a name's place."""
    return table.get(key) if isinstance(key, str) else None


def _transform(name: Any) -> str:
    """Return where a transform of the legacy registry is kept now."""
    if "." in str(name):
        return str(name)
    modules = (module for module, names in _TRANSFORMS.items() if name in names)
    return f"{next(modules, 'torchvision.transforms')}.{name}"


def _call(key: str, kwargs: ConfigMap | None, mark: SourceLocation | None) -> LazyCall:
    """Return a node that imports and calls."""
    node = map_at(mark, key=key)
    if kwargs:
        node.put("init", map_at(mark, kwargs=kwargs), mark)
    return LazyCall("!import_call", node, mark)
