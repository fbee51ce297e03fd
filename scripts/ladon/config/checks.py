"""What the schema table cannot say: models, loaders, optimizers, stages, every tagged node."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

from ladon.config import schema
from ladon.config.build import lazy_target
from ladon.config.losses import check_losses
from ladon.config.nodes import Lazy, LocatedError, kind_of, suggest
from ladon.config.registries import entries, model_kinds
from ladon.config.schema import Section
from ladon.config.signatures import builder_problem, members, weights_problems
from ladon.config.stages import STAGE
from ladon.config.walk import Hook, View, Walker
from ladon.errors import ConfigError

# Arguments of optimizers and schedulers that are numbers; in quotes they fail much later.
_NUMBERS = {
    *("lr", "momentum", "weight_decay", "dampening", "eps", "alpha", "rho", "lr_decay"),
    *("gamma", "power", "step_size", "T_max", "eta_min", "factor", "num_epochs", "max_lr"),
    *("betas", "milestones", "total_steps", "epochs", "pct_start", "base_lr", "min_lr"),
    *("div_factor", "final_div_factor", "warmup_iters", "T_0", "T_mult", "patience", "cooldown"),
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
    }


def check_models(walker: Walker, view: View) -> None:
    """Check which models there are; each one against the section for its kind."""
    names = list(schema.MODELS.keys)
    models = {name: walker.child(view, name) for name in names}
    if models["model"] is None and models["student_model"] is None:
        walker.add(view, '"model" is missing (or "student_model", to distill from "teacher_model")')
    for model in models.values():
        if model is not None and not model.is_open:
            key = walker.child(model, "key")
            is_three_headed = key is not None and key.value == "ladon"
            spec = schema.THREE_HEADED_MODEL if is_three_headed else schema.MODEL
            walker.section(model, spec)


def check_model(walker: Walker, view: View, kind: str | None = None) -> None:
    """Check a model's key and arguments, and the configs of its layers and backbone inside them."""
    key = walker.child(view, "key")
    if "kwargs" not in view.value:
        walker.add(view, '"kwargs" is missing')
    if key is None or key.is_open or walker.child(view, "repo_or_dir") is not None:
        return
    target = _model_entry(walker, view, key, kind)
    if target is None:
        return
    kwargs = walker.child(view, "kwargs")
    # the heads of the three-headed model stand on the classifier: they name no backbone
    is_head = view.path.rpartition(".")[2] in schema.THREE_HEADED_PARTS[1:]
    has_own = kwargs is not None and walker.child(kwargs, "backbone_config") is not None
    derived = ("backbone_config",) if is_head and not has_own else ()
    walker.bind(view, target, derived=derived)
    if kwargs is None or not isinstance(kwargs.value, dict):
        return
    children = {str(name): child for name, child in walker.children(kwargs)}
    problem = builder_problem(target, {name: child.value for name, child in children.items()})
    if problem is not None:
        walker.add(children.get(problem[0], kwargs), problem[1])
    values = {name: child.value for name, child in children.items()}
    if view.path == "models.teacher_model" and walker.child(view, "src_ckpt") is None:
        # its own weights are sure to be loaded; a student's checkpoint may stand for them
        values = {name: _imported(walker, value) for name, value in values.items()}
    for name, text in weights_problems(target, values):
        walker.add(children[name], text)
    for name, spec in schema.MODEL_KWARGS.items():
        if name in children:
            walker.rule(children[name], spec)
    fpn = children.get("backbone_fpn_kwargs")
    if fpn is not None and isinstance(fpn.value, dict):
        from sc2bench.models.detection.rcnn import create_faster_rcnn_fpn

        walker.bind_kwargs(fpn, fpn, create_faster_rcnn_fpn, 1)
        analysis = walker.child(fpn, "analysis_config")
        if analysis is not None:
            walker.rule(analysis, schema.MODEL_KWARGS["analysis_config"])


def _imported(walker: Walker, value: Any) -> Any:
    """Return what a tagged node stands for if that can be known without building it."""
    try:
        if isinstance(value, Lazy) and value.tag == "!import_get":
            return lazy_target(value, _entry(walker, value))[1]
        if isinstance(value, Lazy) and value.tag == "!getattr" and len(value.value) == 2:
            owner, name = (child.value for _, child in walker.children(View("", value.value)))
            return getattr(_imported(walker, owner), name, value)
    except (ConfigError, TypeError):  # listed with the tagged nodes
        return value
    return value


def _model_entry(
    walker: Walker, view: View, key: View, kind: str | None
) -> Callable[..., Any] | None:
    """Look a model up among those of its place, or of the kind that the task needs."""
    place = view.path.rpartition(".")[2]
    quantized = walker.child(view, "quantized")
    if quantized is not None and quantized.value is True:
        return walker.entry(key, "quantized model")
    if place in schema.THREE_HEADED_PARTS:
        registry = f"{place} model"
    elif place == "backbone_config":
        registry = "classification model"
    else:
        registry = "model" if kind is None else f"{kind} model"
    if key.value == "ladon":
        walker.add(key, 'key "ladon" is the three-headed model: it cannot be a part of another')
        return None
    kinds = model_kinds(key.value) if isinstance(key.value, str) else []
    if registry != "model" and kinds and registry not in kinds:
        walker.add(key, f'"{key.value}" is a {kinds[0]}, not a {registry}')
        return None
    return walker.entry(key, registry)


def check_loader(walker: Walker, view: View) -> None:
    """Check a data loader's own arguments."""
    from torch.utils.data import DataLoader

    kwargs, batches = walker.child(view, "kwargs"), walker.child(view, "batch_sampler")
    for owner in (kwargs, batches and walker.child(batches, "kwargs")):
        for name, rule in _LOADER_RULES.items():
            child = owner and walker.child(owner, name)
            if child is not None:
                walker.rule(child, rule)
    if kwargs is None or kwargs.is_open:
        return
    walker.bind_kwargs(kwargs, view, DataLoader, 1)
    size = walker.child(kwargs, "batch_size")
    if size is not None and batches is not None:
        walker.add(size, "belongs into batch_sampler.kwargs: the batch sampler makes the batches")


def check_sampler(walker: Walker, view: View) -> None:
    """Check that a sampler is an imported class and takes its arguments beside the dataset."""
    target_view = walker.child(view, "class_or_func")
    if target_view is None:
        walker.add(view, '"class_or_func" is missing')
        return
    value = target_view.value
    if isinstance(value, Lazy) and value.tag == "!import_get":
        try:
            walker.bind(view, lazy_target(value, _entry(walker, value))[1], given=1)
        except ConfigError:  # a name that cannot be found is listed with the tagged nodes
            return
    elif not target_view.is_open:
        walker.add(target_view, "must be an !import_get of a sampler class")


def check_optimizer(walker: Walker, view: View) -> None:
    """Check an optimizer's numbers, and each module's own arguments."""
    kwargs = walker.child(view, "kwargs")
    _check_numbers(walker, kwargs)
    key = walker.child(view, "key")
    known = {} if key is None or not isinstance(key.value, str) else entries("optimizer")
    target = known.get(key.value) if key is not None and known else None
    for name in ("module_wise_kwargs", "module_wise_configs"):
        groups = walker.child(view, name)
        for _, group in walker.children(groups) if groups is not None else ():
            own = walker.child(group, "kwargs")
            _check_numbers(walker, own)
            if target is not None and own is not None and isinstance(own.value, dict):
                walker.bind_kwargs(own, group, target, 1, is_partial=True)


def check_scheduler(walker: Walker, view: View) -> None:
    """Check a scheduler's numbers."""
    _check_numbers(walker, walker.child(view, "kwargs"))


def _check_numbers(walker: Walker, kwargs: View | None) -> None:
    for name, child in walker.children(kwargs) if kwargs is not None else ():
        if name not in _NUMBERS or child.is_open:
            continue
        if name == "lr" and child.value is None:
            walker.add(child, f"must be a number, not {kind_of(child.value)}")
        if isinstance(child.value, list):  # of each parameter group, or betas
            for _, item in walker.children(child):
                _check_number(walker, name, item)
        else:
            _check_number(walker, name, child)


def _check_number(walker: Walker, name: str, view: View) -> None:
    value = view.value
    if view.is_open or value is None:
        return
    if isinstance(value, str):
        walker.add(view, f'must be a number, not the text "{value}"')
    elif isinstance(value, bool):
        walker.add(view, f"must be a number, not {kind_of(value)}")
    elif isinstance(value, int | float):
        if not math.isfinite(value):
            walker.add(view, f"must be a finite number, not {value}")
        elif value < 0 and name not in _MAY_BE_NEGATIVE:
            walker.add(view, f"must be 0 or more, not {value}")


def check_criterion(walker: Walker, view: View) -> None:
    """Check the terms of the weighted sum."""
    key, kwargs = walker.child(view, "key"), walker.child(view, "kwargs")
    if key is not None and key.value == "WeightedSumLoss" and kwargs is not None:
        walker.rule(kwargs, schema.WEIGHTED_SUM)


def check_loss_wrapper(walker: Walker, view: View) -> None:
    """Check what torchdistill's own loss wrappers read from their arguments."""
    key, kwargs = walker.child(view, "key"), walker.child(view, "kwargs")
    if key is None or key.value not in ("SimpleLossWrapper", "DictLossWrapper"):
        return
    if kwargs is None:
        walker.add(view, '"kwargs" is missing: it says what the loss compares')
    else:
        walker.rule(kwargs, schema.LOSS_WRAPPER)


def check_train(walker: Walker, view: View) -> None:
    """Check the training section: one stage, or stage1, stage2, … without gaps."""
    if view.value is None or view.is_open:
        return
    if not isinstance(view.value, dict):
        walker.add(view, f"must be a mapping, not {kind_of(view.value)}")
        return
    stages = {m[0]: int(m[1]) for key in view.value if (m := STAGE.fullmatch(str(key)))}
    if not stages:
        keys: Mapping[str, Any] = {**schema.STAGE.keys, **schema.TRAIN_KEYS}
        walker.section(view, Section(keys, schema.STAGE.required))
        _check_stage(walker, view)
    for key, child in walker.children(view) if stages else ():
        if key in stages:
            if child.value is None:
                walker.add(child, "the stage is empty")
            walker.rule(child, schema.STAGE)
            _check_stage(walker, child)
        elif key in schema.TRAIN_KEYS:
            walker.rule(child, schema.TRAIN_KEYS[key])
        elif key in schema.STAGE.keys:
            walker.add(child, f"has no effect beside stages: set train.stage1.{key} and so on")
        elif not str(key).startswith("_"):
            hint = suggest(key, [*stages, *schema.TRAIN_KEYS])
            walker.add(child, f"unknown key{hint}")
    gaps = [
        f"stage{n}" for n in range(1, max(stages.values(), default=0)) if f"stage{n}" not in stages
    ]
    if gaps:
        walker.add(view, f"{', '.join(gaps)} is missing: stages are numbered without gaps from 1")
    epoch = walker.child(view, "epoch_to_update")
    if epoch is not None and not epoch.is_open:
        value = epoch.value
        names = stages or ["stage1"]
        if isinstance(value, str) and value not in names:  # else a num_epochs is at fault
            walker.add(epoch, f'there is no stage "{value}"{suggest(value, names)}')
        elif isinstance(value, str):
            return
        elif not isinstance(value, int) or isinstance(value, bool) or value < 0:
            walker.add(epoch, f"must be a stage's name or an epoch's number, not {kind_of(value)}")


def _check_stage(walker: Walker, stage: View) -> None:
    """Check what belongs together in a stage."""
    _check_teacher(walker, stage)
    _check_plateau(walker, stage)
    check_losses(walker, stage)


def _check_plateau(walker: Walker, stage: View) -> None:
    scheduler = walker.child(stage, "scheduler")
    key = walker.child(scheduler, "key") if scheduler is not None else None
    if scheduler is None or key is None or key.value != "ReduceLROnPlateau":
        return
    validation = walker.child(stage, "val_data_loader")
    if validation is None or validation.value is None:
        walker.add(key, "ReduceLROnPlateau follows a validation: the stage needs val_data_loader")
    step = walker.child(scheduler, "scheduling_step")
    if step is not None and not step.is_open and step.value:
        text = "ReduceLROnPlateau follows each epoch's validation: leave out scheduling_step"
        walker.add(step, text)


def _check_teacher(walker: Walker, stage: View) -> None:
    teacher = walker.child(stage, "teacher")
    models = walker.child(walker.root(), "models")
    if teacher is None or models is None or not isinstance(models.value, dict):
        return
    if walker.child(models, "teacher_model") is None:
        walker.add(teacher, 'there is no "teacher_model" under models')


def _entry(walker: Walker, lazy: Lazy) -> dict[str, Any]:
    names = ("key", "package", "class_name", "method_name")
    resolver = walker.config.resolver
    return {
        name: resolver.resolve(lazy.value.get(name), lazy.value.mark_of(name)) for name in names
    }


def check_lazy(walker: Walker, view: View) -> None:
    """Check one tagged node: its name can be imported, its call would bind. Nothing is built."""
    lazy: Lazy = view.value
    if lazy.tag.startswith("!import_"):
        _check_import(walker, view, lazy)
    elif lazy.tag in ("!getattr", "!setattr"):
        if len(lazy.value) not in ((2, 3) if lazy.tag == "!getattr" else (3,)):
            walker.add(
                view, f"{lazy.tag} needs [object, name{', value' * (lazy.tag == '!setattr')}]"
            )
        elif lazy.tag == "!getattr" and len(lazy.value) == 2:
            _check_getattr(walker, view, lazy)
    elif lazy.tag == "!call_method":
        for name in ("obj", "method_name"):
            if lazy.value.get(name) is None:
                walker.add(view, f'{lazy.tag} needs "{name}"')


def _check_import(walker: Walker, view: View, lazy: Lazy) -> None:
    node = View(view.path, lazy.value, view.mark)
    is_method = lazy.tag == "!import_call_method"
    known = ["package", "class_name", "method_name"] if is_method else ["key", "package"]
    if lazy.tag != "!import_get":
        known.append("init")
    for key, child in walker.children(node):
        if key not in known and not str(key).startswith("_"):
            walker.add(child, f"{lazy.tag} knows no such key{suggest(key, known)}")
    try:
        name, target = lazy_target(lazy, _entry(walker, lazy))
    except LocatedError as exc:
        walker.add(View(view.path, None, exc.mark), exc.text)
        return
    if lazy.tag == "!import_get":
        return
    if not callable(target):
        walker.add(view, f"{name} is {kind_of(target)}: it cannot be called")
        return
    init = walker.child(node, "init")
    if init is None:
        walker.bind(View(view.path, {}, view.mark), target)
    elif not init.is_open:
        walker.section(init, Section({"args": schema.ANY, "kwargs": schema.ANY}))
        if isinstance(init.value, dict):
            walker.bind(init, target)


def _check_getattr(walker: Walker, view: View, lazy: Lazy) -> None:
    owner, name = (child.value for _, child in walker.children(View(view.path, lazy.value)))
    if not isinstance(owner, Lazy) or owner.tag != "!import_get" or not isinstance(name, str):
        return
    try:
        target = lazy_target(owner, _entry(walker, owner))[1]
    except ConfigError:  # listed at the node itself
        return
    if not hasattr(target, name):
        owner_name = getattr(target, "__name__", str(target))
        known = members(target)
        hint = suggest(name, known or _public(target))
        hint += f" (it has {', '.join(known)})" if known else ""
        walker.add(view, f'{owner_name} has no "{name}"{hint}')


def _public(target: Any) -> list[str]:
    return [name for name in dir(target) if not name.startswith("_")]
