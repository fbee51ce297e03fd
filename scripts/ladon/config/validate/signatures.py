"""Whether a call would bind, without making it; `**kwargs` are followed into known libraries."""

from __future__ import annotations

import enum
import functools
import inspect
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from importlib import import_module
from typing import Any

from ladon.backbones import FAMILIES
from ladon.config.core.nodes import suggest

_Parameter = inspect.Parameter

# sc2bench's splittable models of no family hand **kwargs to a library's builder, too: (module,
# argument that names it, default).
_WRAPPED_BUILDERS: dict[str, tuple[str, str | None, str]] = {
    "splittable_densenet": ("torchvision.models", "densenet_name", "densenet169"),
    "splittable_inception_v3": ("torchvision.models", None, "inception_v3"),
    "splittable_regnet": ("timm.models", "regnet_name", "regnety_064"),
    "splittable_hybrid_vit": ("timm.models", "hybrid_vit_name", "vit_small_r26_s32_224"),
}
# Arguments that torchvision's decorators take out of **kwargs, from before the weights enums.
_TORCHVISION_LEGACY = {"pretrained", "pretrained_backbone"}
_TIMM_COMMON = {"pretrained", "features_only", "out_indices", "img_size", "checkpoint_path"}


def call_problems(
    target: Callable[..., Any],
    args: int,
    kwargs: Mapping[str, Any],
    *,
    derived: Collection[str] = (),
) -> list[tuple[str | None, str]]:
    """List why `target` could not be called.

    Args:
        target: a class or function.
        args: how many positional arguments there would be.
        kwargs: the keyword arguments; their values matter only where they name another builder.
        derived: arguments that the program fills in if they are missing.

    Returns:
        (the keyword at fault or None, what is wrong) for each problem.
    """
    parameters = _parameters(target)
    if parameters is None:
        return []
    name = getattr(target, "__name__", str(target))
    positional = [
        p.name
        for p in parameters.values()
        if p.kind in (_Parameter.POSITIONAL_ONLY, _Parameter.POSITIONAL_OR_KEYWORD)
    ]
    kinds = {p.kind for p in parameters.values()}
    problems: list[tuple[str | None, str]] = []
    if args > len(positional) and _Parameter.VAR_POSITIONAL not in kinds:
        text = f"{name} takes {len(positional)} positional arguments, not {args}"
        problems.append((None, text))
    known = _named(parameters)
    accepted = set(known)
    if _Parameter.VAR_KEYWORD in kinds:
        extras = accepted_extras(target, kwargs)
        accepted = accepted | extras if extras is not None else accepted | set(map(str, kwargs))
    for keyword in kwargs:
        if keyword not in accepted:
            hint = suggest(keyword, accepted)
            problems.append((keyword, f"{name} takes no such argument{hint}"))
        elif keyword in positional[:args]:
            problems.append((keyword, f"{name} gets this argument twice"))
    filled = {*positional[:args], *kwargs, *derived}
    missing = [
        p.name
        for p in parameters.values()
        if p.default is _Parameter.empty
        and p.kind not in (_Parameter.VAR_POSITIONAL, _Parameter.VAR_KEYWORD)
        and p.name not in filled
    ]
    if missing:
        problems.append((None, f"{name} needs {', '.join(missing)}"))
    return problems


def accepted_extras(target: Callable[..., Any], kwargs: Mapping[str, Any]) -> set[str] | None:
    """Return the further keywords that end up somewhere through **kwargs; None if anything may."""
    module, name = getattr(target, "__module__", ""), getattr(target, "__name__", "")
    if _wraps(target) is not None:
        builder = wrapped_builder(target, kwargs)
        return None if builder is None else _builder_keywords(builder)
    if name == "faster_rcnn_model" and module.startswith("sc2bench."):
        return _keywords_of("sc2bench.models.detection.rcnn", "create_faster_rcnn_fpn") | (
            _keywords_of("torchvision.models.detection", "FasterRCNN")
        )
    if name == "create_faster_rcnn_fpn" and module.startswith("sc2bench."):
        return _keywords_of("torchvision.models.detection", "FasterRCNN")
    if name == "deeplabv3_model" and module.startswith("sc2bench."):
        return set()  # its **kwargs go nowhere
    if module == "ladon.data.transforms" and inspect.isclass(target):
        return _named(_parameters(target.__bases__[0]) or {})
    if name == "SimpleLossWrapper" and module.startswith("torchdistill."):
        return {"input", "target", "weights"}
    if module.startswith(("torchvision.models.", "timm.models.")):
        return _builder_keywords(target)
    return None


def wrapped_builder(
    target: Callable[..., Any], kwargs: Mapping[str, Any]
) -> Callable[..., Any] | None:
    """Return the library function that a splittable model is built from, None if there is none."""
    wrapped = _wraps(target)
    if wrapped is None:
        return None
    find, _, argument, default = wrapped
    name = kwargs.get(argument, default) if argument else default
    return find(name) if isinstance(name, str) else None


def builder_problem(
    target: Callable[..., Any], kwargs: Mapping[str, Any]
) -> tuple[str, str] | None:
    """Say if a splittable model names a library function that does not exist."""
    _, module, argument, default = _wraps(target) or (None, "", None, "")
    if not argument or not isinstance(kwargs.get(argument, default), str):
        return None
    if wrapped_builder(target, kwargs) is not None:
        return None
    hint = suggest(kwargs[argument], dir(import_module(module)))
    return argument, f'{module} has no "{kwargs[argument]}"{hint}'


def _wraps(
    target: Callable[..., Any],
) -> tuple[Callable[[str], Any], str, str | None, str] | None:
    """Return what builds a splittable model's network: finder, its module, argument, default."""
    name, module = getattr(target, "__name__", ""), getattr(target, "__module__", "")
    if module not in ("sc2bench.models.backbone", "ladon.backbones.splittable"):
        return None
    for family in FAMILIES.values():
        if family.key == name:
            return family.builder, family.library, family.argument, family.default
    if name not in _WRAPPED_BUILDERS:
        return None
    library, argument, default = _WRAPPED_BUILDERS[name]
    return lambda member: _callable_in(library, member), library, argument, default


def _callable_in(module: str, name: str) -> Callable[..., Any] | None:
    found = getattr(import_module(module), name, None)
    return found if callable(found) else None


def members(target: Any) -> list[str]:
    """Return the names in an enumeration, like torchvision's of a model's weights; else nothing."""
    is_enum = inspect.isclass(target) and issubclass(target, enum.Enum)
    return list(target.__members__) if is_enum else []


def weights_problems(
    target: Callable[..., Any], kwargs: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """Yield (argument, what is wrong) where torchvision's builder knows no such weights.

    Args:
        target: torchvision's builder, or a splittable model made by one.
        kwargs: its arguments; members of an enumeration as such, or their names.
    """
    builder = wrapped_builder(target, kwargs) or target
    if not getattr(builder, "__module__", "").startswith("torchvision.models."):
        return
    for argument in ("weights", "weights_backbone"):
        value, known = kwargs.get(argument), _weights(builder, argument)
        if not known or not isinstance(value, str | enum.Enum):
            continue
        if isinstance(value, enum.Enum):
            if not isinstance(value, tuple(known)):
                needed = " or ".join(kind.__name__ for kind in known)
                yield argument, f"{value} are another model's weights: {needed} is needed"
            continue
        names = [name for kind in known for name in members(kind)]
        if value.rpartition(".")[2] not in names:
            text = f'{builder.__name__} has no weights "{value}"{suggest(value, names)}'
            yield argument, f"{text} (it has {', '.join(names)})"


def weights_classes(
    target: Callable[..., Any], kwargs: Mapping[str, Any]
) -> tuple[str, int] | None:
    """Return name and number of classes of the weights that a model is asked to start from.

    Args:
        target: torchvision's or timm's builder, or a splittable model made by one.
        kwargs: its arguments; members of an enumeration as such, or their names.

    Returns:
        None where there are no weights, or they do not tell.
    """
    builder = wrapped_builder(target, kwargs) or target
    name = getattr(builder, "__name__", "")
    if getattr(builder, "__module__", "").startswith("timm.models."):
        config = import_module("timm.models").get_pretrained_cfg(name)
        is_wanted = kwargs.get("pretrained") is True and config is not None
        return (f"of timm's {name}", config.num_classes) if is_wanted else None
    value = kwargs.get("weights")
    kind: Any
    for kind in _weights(builder, "weights"):
        found: Any = value
        if isinstance(value, str):
            found = getattr(kind, value.rpartition(".")[2], None)
        if type(found) is kind:
            count = len(found.value.meta.get("categories") or ())
            return (f"{kind.__name__}.{found.name}", count) if count else None
    return None


def _weights(builder: Callable[..., Any], argument: str) -> list[type]:
    """Return the enumerations that an argument is annotated with."""
    try:
        hint = typing.get_type_hints(builder).get(argument)
    except (NameError, TypeError):
        return []
    return [kind for kind in (*typing.get_args(hint), hint) if members(kind)]


@functools.lru_cache(maxsize=512)
def _parameters(target: Callable[..., Any]) -> Mapping[str, inspect.Parameter] | None:
    try:
        return inspect.signature(target).parameters
    except (TypeError, ValueError):  # some built-in types have no signature to read
        return None


def _named(parameters: Mapping[str, inspect.Parameter]) -> set[str]:
    kinds = (_Parameter.POSITIONAL_OR_KEYWORD, _Parameter.KEYWORD_ONLY)
    return {p.name for p in parameters.values() if p.kind in kinds}


def _keywords_of(module: str, name: str) -> set[str]:
    # Without "backbone": the model hands its own in front.
    return _named(_parameters(getattr(import_module(module), name)) or {}) - {"backbone"}


def _builder_keywords(builder: Callable[..., Any]) -> set[str] | None:
    """Return what a torchvision or timm model function takes: its own arguments and its class's.

    None where the class hands on **kwargs in turn; torchvision's detectors drop them unread.
    """
    module = getattr(builder, "__module__", "")
    own = _parameters(builder) or {}
    model = builder if inspect.isclass(builder) else _return_class(builder)
    if model is None:
        return None
    parameters = _parameters(model) or {}
    has_more = any(p.kind is _Parameter.VAR_KEYWORD for p in parameters.values())
    if has_more and not module.startswith("torchvision.models.detection"):
        return None
    keywords = _named(own) | _named(parameters)
    if module.startswith("torchvision."):
        return keywords | _TORCHVISION_LEGACY
    return keywords | _TIMM_COMMON | _keywords_of("timm.models._builder", "build_model_with_cfg")


def _return_class(builder: Callable[..., Any]) -> type | None:
    try:
        returned = typing.get_type_hints(builder).get("return")
    except (NameError, TypeError):
        return None
    return returned if inspect.isclass(returned) else None
