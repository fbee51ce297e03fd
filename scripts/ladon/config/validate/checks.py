"""Checks beyond the schema's table: models, loaders, optimizers, stages, every tagged node."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from importlib import import_module
from typing import Any

from ladon.config.core import schema
from ladon.config.core.nodes import LazyCall, LocatedError, kind_of, suggest
from ladon.config.core.schema import Section
from ladon.config.validate.channels import check_channels
from ladon.config.validate.classes import check_weights_classes
from ladon.config.validate.losses import check_loss_term
from ladon.config.validate.registries import entries, model_kinds
from ladon.config.validate.reset_head import check_reset_head
from ladon.config.validate.signatures import builder_problem, members, weights_problems
from ladon.config.validate.validator import ConfigNode, Hook, Validator, target_of
from ladon.errors import ConfigError

# Arguments of optimizers and schedulers that are numbers; in quotes they fail much later.
_NUMBERS = {
    "lr",
    "momentum",
    "weight_decay",
    "dampening",
    "eps",
    "alpha",
    "rho",
    "lr_decay",
    "gamma",
    "power",
    "step_size",
    "T_max",
    "eta_min",
    "factor",
    "num_epochs",
    "max_lr",
    "betas",
    "milestones",
    "total_steps",
    "epochs",
    "pct_start",
    "base_lr",
    "min_lr",
    "div_factor",
    "final_div_factor",
    "warmup_iters",
    "T_0",
    "T_mult",
    "patience",
    "cooldown",
}
# torch takes them so, whatever they then do
_MAY_BE_NEGATIVE = {"alpha", "rho", "gamma", "power", "factor", "pct_start", "eta_min", "cooldown"}


_LOADER_RULES = {
    "batch_size": schema.COUNT,
    "num_workers": schema.WHOLE,
    "drop_last": schema.FLAG,
}


def hooks_for(kind: str | None) -> dict[str, Hook]:
    """Return the further checks by name.

    Args:
        kind: of the model that the config will be run for ('detection', …), or None.
    """
    return {
        "models": check_models,
        "model": functools.partial(check_model, kind=kind),
        "loader": check_loader,
        "sampler": check_sampler,
        "optimizer": check_optimizer,
        "scheduler": check_scheduler,
        "criterion": check_criterion,
        "loss_wrapper": check_loss_wrapper,
        "loss_term": check_loss_term,
        "metric": check_metric,
    }


def check_models(validator: Validator, node: ConfigNode) -> None:
    """Check which models there are; each one against the section for its kind."""
    names = list(schema.MODELS.keys)
    models = {name: validator.child(node, name) for name in names}
    if models["model"] is None and models["student_model"] is None:
        validator.add(
            node, '"model" is missing (or "student_model", to distill from "teacher_model")'
        )
    for model in models.values():
        if model is not None and not model.is_unresolved:
            key = validator.child(model, "key")
            is_three_headed = key is not None and key.value == "ladon"
            spec = schema.THREE_HEADED_MODEL if is_three_headed else schema.MODEL
            validator.section(model, spec)
            if is_three_headed:
                check_reset_head(validator, model)


def check_model(validator: Validator, node: ConfigNode, kind: str | None = None) -> None:
    """Check a model's key and arguments, and the configs of its layers and backbone inside them."""
    key = validator.child(node, "key")
    check_reset_head(validator, node)
    if "kwargs" not in node.value:
        validator.add(node, '"kwargs" is missing')
    if key is None or key.is_unresolved or validator.child(node, "repo_or_dir") is not None:
        return
    target = _model_entry(validator, node, key, kind)
    if target is None:
        return
    kwargs = validator.child(node, "kwargs")
    # the heads of the three-headed model stand on the classifier: they name no backbone
    is_head = node.path.rpartition(".")[2] in schema.HEADS[1:]
    has_own = kwargs is not None and validator.child(kwargs, "backbone_config") is not None
    derived = ("backbone_config",) if is_head and not has_own else ()
    validator.bind(node, target, derived=derived)
    check_channels(validator, node)
    if kwargs is None or not isinstance(kwargs.value, dict):
        return
    children = {str(name): child for name, child in validator.children(kwargs)}
    problem = builder_problem(target, {name: child.value for name, child in children.items()})
    if problem is not None:
        validator.add(children.get(problem[0], kwargs), problem[1])
    values = {name: child.value for name, child in children.items()}
    if node.path == "models.teacher_model" and validator.child(node, "src_ckpt") is None:
        # its own weights are sure to be loaded; a student's checkpoint may stand for them
        values = {name: _imported(validator, value) for name, value in values.items()}
    for name, text in weights_problems(target, values):
        validator.add(children[name], text)
    imported = {name: _imported(validator, value) for name, value in values.items()}
    check_weights_classes(validator, node, target, imported)
    for name, spec in schema.MODEL_KWARGS.items():
        if name in children:
            validator.rule(children[name], spec)
    fpn = children.get("backbone_fpn_kwargs")
    if fpn is not None and isinstance(fpn.value, dict):
        from sc2bench.models.detection.rcnn import create_faster_rcnn_fpn

        validator.bind_kwargs(fpn, fpn, create_faster_rcnn_fpn, 1)
        analysis = validator.child(fpn, "analysis_config")
        if analysis is not None:
            validator.rule(analysis, schema.MODEL_KWARGS["analysis_config"])


def _imported(validator: Validator, value: Any) -> Any:
    """Return what a tagged node stands for if that can be known without building it."""
    try:
        if isinstance(value, LazyCall) and value.tag == "!import_get":
            return target_of(validator, value)[1]
        if isinstance(value, LazyCall) and value.tag == "!getattr" and len(value.value) == 2:
            owner, name = (
                child.value for _, child in validator.children(ConfigNode("", value.value))
            )
            return getattr(_imported(validator, owner), name, value)
    except (ConfigError, TypeError):  # listed with the tagged nodes
        return value
    return value


def _model_entry(
    validator: Validator, node: ConfigNode, key: ConfigNode, kind: str | None
) -> Callable[..., Any] | None:
    """Look a model up among those of its place, or of the kind that the task needs."""
    place = node.path.rpartition(".")[2]
    quantized = validator.child(node, "quantized")
    if quantized is not None and quantized.value is True:
        return validator.entry(key, "quantized model")
    if place in schema.HEADS:
        registry = f"{place} model"
    elif place == "backbone_config":
        registry = "classification model"
    else:
        registry = "model" if kind is None else f"{kind} model"
    if key.value == "ladon":
        validator.add(key, 'key "ladon" is the three-headed model: it cannot be a part of another')
        return None
    if (text := _timm_tag(key.value)) is not None:
        validator.add(key, text)
        return None
    kinds = model_kinds(key.value) if isinstance(key.value, str) else []
    if registry != "model" and kinds and registry not in kinds:
        validator.add(key, f'"{key.value}" is a {kinds[0]}, not a {registry}')
        return None
    return validator.entry(key, registry)


def _timm_tag(key: Any) -> str | None:
    """Say how one of timm's weights is chosen where a key is written as on its hub."""
    name, _, tag = key.partition(".") if isinstance(key, str) else ("", "", "")
    if not tag or name not in entries("model") or name not in _public(import_module("timm.models")):
        return None
    wanted = f"key: timm.models.{name}, kwargs: {{pretrained_cfg: {tag}, pretrained: true}}"
    return f'there is no model "{key}": a tag of timm\'s weights is written {wanted}'


def check_loader(validator: Validator, node: ConfigNode) -> None:
    """Check a data loader's own arguments."""
    from torch.utils.data import DataLoader

    kwargs, batches = validator.child(node, "kwargs"), validator.child(node, "batch_sampler")
    for owner in (kwargs, batches and validator.child(batches, "kwargs")):
        for name, rule in _LOADER_RULES.items():
            child = owner and validator.child(owner, name)
            if child is not None:
                validator.rule(child, rule)
    if kwargs is None or kwargs.is_unresolved:
        return
    validator.bind_kwargs(kwargs, node, DataLoader, 1)
    size = validator.child(kwargs, "batch_size")
    if size is not None and batches is not None:
        validator.add(
            size, "belongs into batch_sampler.kwargs: the batch sampler makes the batches"
        )


def check_sampler(validator: Validator, node: ConfigNode) -> None:
    """Check that a sampler is an imported class and takes its arguments beside the dataset."""
    target_node = validator.child(node, "class_or_func")
    if target_node is None:
        validator.add(node, '"class_or_func" is missing')
        return
    value = target_node.value
    if isinstance(value, LazyCall) and value.tag == "!import_get":
        try:
            validator.bind(node, target_of(validator, value)[1], given=1)
        except ConfigError:  # a name that cannot be found is listed with the tagged nodes
            return
    elif not target_node.is_unresolved:
        validator.add(target_node, "must be an !import_get of a sampler class")


def check_optimizer(validator: Validator, node: ConfigNode) -> None:
    """Check an optimizer's numbers, and each module's own arguments."""
    kwargs = validator.child(node, "kwargs")
    _check_numbers(validator, kwargs)
    key = validator.child(node, "key")
    known = {} if key is None or not isinstance(key.value, str) else entries("optimizer")
    target = known.get(key.value) if key is not None and known else None
    for name in ("module_wise_kwargs", "module_wise_configs"):
        groups = validator.child(node, name)
        for _, group in validator.children(groups) if groups is not None else ():
            own = validator.child(group, "kwargs")
            _check_numbers(validator, own)
            if target is not None and own is not None and isinstance(own.value, dict):
                validator.bind_kwargs(own, group, target, 1, is_partial=True)


def check_scheduler(validator: Validator, node: ConfigNode) -> None:
    """Check a scheduler's numbers."""
    _check_numbers(validator, validator.child(node, "kwargs"))


def _check_numbers(validator: Validator, kwargs: ConfigNode | None) -> None:
    for name, child in validator.children(kwargs) if kwargs is not None else ():
        if name not in _NUMBERS or child.is_unresolved:
            continue
        if name == "lr" and child.value is None:
            validator.add(child, f"must be a number, not {kind_of(child.value)}")
        if isinstance(child.value, list):  # of each parameter group, or betas
            for _, item in validator.children(child):
                _check_number(validator, name, item)
        else:
            _check_number(validator, name, child)


def _check_number(validator: Validator, name: str, node: ConfigNode) -> None:
    value = node.value
    if node.is_unresolved or value is None:
        return
    if isinstance(value, str):
        validator.add(node, f'must be a number, not the text "{value}"')
    elif isinstance(value, bool):
        validator.add(node, f"must be a number, not {kind_of(value)}")
    elif isinstance(value, int | float):
        if not math.isfinite(value):
            validator.add(node, f"must be a finite number, not {value}")
        elif value < 0 and name not in _MAY_BE_NEGATIVE:
            validator.add(node, f"must be 0 or more, not {value}")


def check_criterion(validator: Validator, node: ConfigNode) -> None:
    """Check the terms of the weighted sum."""
    key, kwargs = validator.child(node, "key"), validator.child(node, "kwargs")
    if key is not None and key.value == "WeightedSumLoss" and kwargs is not None:
        validator.rule(kwargs, schema.WEIGHTED_SUM)


def check_metric(validator: Validator, node: ConfigNode) -> None:
    """Check that a metric is one, and says what it computes."""
    from ladon.metrics.base import Metric
    from ladon.tasks import Score

    key = validator.child(node, "key")
    metric = None if key is None else entries("metric").get(str(key.value))
    if key is None or metric is None:
        return
    if not isinstance(metric, type) or not issubclass(metric, Metric):
        validator.add(
            key, f"{key.value} is no metric: it must derive from ladon.metrics.base.Metric"
        )
        return
    missing = ", ".join(sorted(metric.__abstractmethods__))
    if missing:
        validator.add(key, f"{key.value} lacks {missing}")
    if not metric.scores or not all(isinstance(score, Score) for score in metric.scores):
        text = 'must say what it computes: scores = (Score("KEY", "LABEL [UNIT]"),), of ladon.tasks'
        validator.add(key, f"{key.value} {text}; the first one chooses the best checkpoint")


def check_loss_wrapper(validator: Validator, node: ConfigNode) -> None:
    """Check what torchdistill's own loss wrappers read from their arguments."""
    key, kwargs = validator.child(node, "key"), validator.child(node, "kwargs")
    if key is None or key.value not in ("SimpleLossWrapper", "DictLossWrapper"):
        return
    if kwargs is None:
        validator.add(node, '"kwargs" is missing: it says what the loss compares')
    else:
        validator.rule(kwargs, schema.LOSS_WRAPPER)


def check_lazy(validator: Validator, node: ConfigNode) -> None:
    """Check one tagged node: its name can be imported, its call would bind. Nothing is built."""
    lazy: LazyCall = node.value
    if lazy.tag.startswith("!import_"):
        _check_import(validator, node, lazy)
    elif lazy.tag in ("!getattr", "!setattr"):
        if len(lazy.value) not in ((2, 3) if lazy.tag == "!getattr" else (3,)):
            validator.add(
                node, f"{lazy.tag} needs [object, name{', value' * (lazy.tag == '!setattr')}]"
            )
        elif lazy.tag == "!getattr" and len(lazy.value) == 2:
            _check_getattr(validator, node, lazy)
    elif lazy.tag == "!call_method":
        for name in ("obj", "method_name"):
            if lazy.value.get(name) is None:
                validator.add(node, f'{lazy.tag} needs "{name}"')


def _check_import(validator: Validator, node: ConfigNode, lazy: LazyCall) -> None:
    raw = ConfigNode(node.path, lazy.value, node.mark)
    is_method = lazy.tag == "!import_call_method"
    known = ["package", "class_name", "method_name"] if is_method else ["key", "package"]
    if lazy.tag != "!import_get":
        known.append("init")
    for key, child in validator.children(raw):
        if key not in known and not str(key).startswith("_"):
            validator.add(child, f"{lazy.tag} knows no such key{suggest(key, known)}")
    try:
        name, target = target_of(validator, lazy)
    except LocatedError as exc:
        validator.add(ConfigNode(node.path, None, exc.mark), exc.text)
        return
    if lazy.tag == "!import_get":
        return
    if not callable(target):
        validator.add(node, f"{name} is {kind_of(target)}: it cannot be called")
        return
    init = validator.child(raw, "init")
    if init is None:
        validator.bind(ConfigNode(node.path, {}, node.mark), target)
    elif not init.is_unresolved:
        validator.section(init, Section({"args": schema.ANY, "kwargs": schema.ANY}))
        if isinstance(init.value, dict):
            validator.bind(init, target)


def _check_getattr(validator: Validator, node: ConfigNode, lazy: LazyCall) -> None:
    owner, name = (
        child.value for _, child in validator.children(ConfigNode(node.path, lazy.value))
    )
    if not isinstance(owner, LazyCall) or owner.tag != "!import_get" or not isinstance(name, str):
        return
    try:
        target = target_of(validator, owner)[1]
    except ConfigError:  # listed at the node itself
        return
    if not hasattr(target, name):
        owner_name = getattr(target, "__name__", str(target))
        known = members(target)
        hint = suggest(name, known or _public(target))
        hint += f" (it has {', '.join(known)})" if known else ""
        validator.add(node, f'{owner_name} has no "{name}"{hint}')


def _public(target: Any) -> list[str]:
    return [name for name in dir(target) if not name.startswith("_")]
