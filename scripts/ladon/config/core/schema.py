"""Which keys a config may have, where, and of what kind: one table, read by `validate`.

The schema is the one published for sc2bench >= 0.1 and torchdistill >= 1.0, with `_base_`, `name`,
`beta`, `data_root`, `freeze_batch_norm` and `reset_head` added. Keys that begin with '_' may stand
anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ladon.choices import HEADS, INPUTS, MODES, ON_BAD_SAMPLE, PRECISIONS


@dataclass(frozen=True)
class RegistryKey:
    """Text that must be an entry of one of `registries`, or empty."""

    registry: str


@dataclass(frozen=True)
class ListOf:
    """A list, each item under one rule."""

    rule: Rule


@dataclass(frozen=True)
class Section:
    """A mapping with known keys.

    Args:
        keys: what each key may hold.
        required: keys that must be there and not be empty.
        free: the rule of keys that people name themselves; without it other keys are unknown.
        registry: where the section's `key` is looked up; its `args` and `kwargs` are bound against
            what is found there.
        given: positional arguments that the program adds in front (an optimizer's parameters, say).
        derived: arguments that the program fills in where the file leaves them out.
        check: name of a further check in `validate`.
    """

    keys: Mapping[str, Rule] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    free: Rule | None = None
    registry: str | None = None
    given: int = 0
    derived: tuple[str, ...] = ()
    check: str | None = None


@dataclass(frozen=True)
class OneOf:
    """One of a few words."""

    words: tuple[str, ...]


# A rule is a section, a list, a registry's entry, or the name of a kind of value.
Rule = Section | ListOf | RegistryKey | OneOf | str

ANY, NUMBER, COUNT, WHOLE = "any", "number", "count", "whole number"
NOT_NEGATIVE, POSITIVE = "number of at least 0", "number above 0"
FLAG, TEXT, PATHS, DATASET, WEIGHT = "true or false", "text", "list of text", "dataset id", "weight"


def component(registry: str, *, given: int = 0, derived: tuple[str, ...] = ()) -> Section:
    """Return the section of a thing that is named by `key` and made with `kwargs`."""
    keys = {"key": TEXT, "args": ANY, "kwargs": ANY}
    return Section(keys, ("key",), registry=registry, given=given, derived=derived)


LOADER = Section(
    {
        "dataset_id": DATASET,
        "sampler": Section({"class_or_func": ANY, "kwargs": ANY}, check="sampler"),
        "batch_sampler": component("batch sampler", given=1),
        "collate_fn": RegistryKey("collate function"),
        "kwargs": ANY,
        "cache_output": ANY,
        "requires_supp": FLAG,
        "dataset_wrapper": component("dataset wrapper", given=1),
    },
    required=("dataset_id",),
    check="loader",
)

STAGE_MODEL = Section(
    {
        "adaptations": ANY,
        "sequential": PATHS,
        "frozen_modules": PATHS,
        "freeze_batch_norm": FLAG,
        "forward_proc": RegistryKey("forward function"),
        "forward_hook": Section({"input": PATHS, "output": PATHS}),
        "wrapper": ANY,
        "requires_grad": FLAG,
        "src_ckpt": TEXT,
        "dst_ckpt": TEXT,
        "auxiliary_model_wrapper": ANY,
        "apex": ANY,
    }
)

_MODULE_WISE = ListOf(
    Section({"module": TEXT, "kwargs": ANY, "is_teacher": FLAG}, required=("module",))
)
OPTIMIZER = Section(
    {
        "key": TEXT,
        "kwargs": ANY,
        "module_wise_kwargs": _MODULE_WISE,
        "module_wise_configs": _MODULE_WISE,
        "max_grad_norm": NUMBER,
        "grad_accum_step": COUNT,
        "filters_params": FLAG,
    },
    required=("key",),
    registry="optimizer",
    given=1,
    check="optimizer",
)

# The engine derives both lengths of poly_lr_scheduler from the stage itself.
SCHEDULER = Section(
    {"key": TEXT, "kwargs": ANY, "scheduling_step": WHOLE},
    required=("key",),
    registry="scheduler",
    given=1,
    derived=("num_iterations", "num_epochs"),
    check="scheduler",
)

TERM = Section(
    {
        "criterion": component("loss term"),
        "criterion_wrapper": Section(
            {"key": TEXT, "args": ANY, "kwargs": ANY},
            ("key",),
            registry="loss wrapper",
            given=1,
            check="loss_wrapper",
        ),
        "weight": NUMBER,
    },
    required=("criterion", "weight"),
    check="loss_term",
)
WEIGHTED_SUM = Section({"model_term": Section({"weight": WEIGHT}), "sub_terms": Section(free=TERM)})
_TENSOR = {"is_from_teacher": FLAG, "module_path": TEXT, "io": TEXT}
LOSS_WRAPPER = Section(
    {
        "input": Section(_TENSOR, required=tuple(_TENSOR)),
        "target": Section({**_TENSOR, "uses_label": FLAG}),
        "weights": Section(free=NUMBER),
    },
    required=("input",),
)
CRITERION = Section(
    {
        "key": TEXT,
        "args": ANY,
        "kwargs": ANY,
        "func2extract_model_loss": RegistryKey("loss extractor"),
    },
    required=("key",),
    registry="loss",
    check="criterion",
)

STAGE = Section(
    {
        "num_epochs": COUNT,
        "train_data_loader": LOADER,
        "val_data_loader": LOADER,
        "teacher": STAGE_MODEL,
        "student": STAGE_MODEL,
        "model": STAGE_MODEL,
        "optimizer": OPTIMIZER,
        "scheduler": SCHEDULER,
        "criterion": CRITERION,
        "pre_epoch_process": RegistryKey("pre-epoch process"),
        "pre_forward_process": RegistryKey("pre-forward process"),
        "post_forward_process": RegistryKey("post-forward process"),
        "post_epoch_process": RegistryKey("post-epoch process"),
    },
    required=("num_epochs", "train_data_loader", "optimizer", "criterion"),
)
_PRECISION = OneOf(PRECISIONS)
TRAIN_KEYS: dict[str, Rule] = {
    "log_freq": COUNT,
    "epoch_to_update": ANY,
    "checkpoint_every": NOT_NEGATIVE,
    "checkpoint_steps": COUNT,
    "on_bad_sample": OneOf(ON_BAD_SAMPLE),
    "precision": _PRECISION,
    "compile": FLAG,
}
TEST = Section(
    {
        "test_data_loader": LOADER,
        "evaluation": OneOf(MODES),
        "precision": _PRECISION,
        "input": OneOf(INPUTS),
        "compile": FLAG,
        "rates": ListOf(POSITIVE),
        "log_freq": COUNT,
    },
    required=("test_data_loader",),
)

_ANALYSIS = Section(
    {"analyzes_after_compress": FLAG, "analyzer_configs": ListOf(component("analyzer"))}
)
_MODEL_KEYS: dict[str, Rule] = {
    "key": TEXT,
    "kwargs": ANY,
    "src_ckpt": TEXT,
    "dst_ckpt": TEXT,
    "reset_head": FLAG,
    "experiment": ANY,
    "quantized": FLAG,
    "sync_bn": FLAG,
    "repo_or_dir": TEXT,
    "update_before_ckpt": FLAG,
}
MODEL = Section(_MODEL_KEYS, required=("key",), check="model")
# Of a model's kwargs, wherever a model has an argument of that name.
MODEL_KWARGS: dict[str, Rule] = {
    "num_classes": WHOLE,
    "bottleneck_config": component("layer"),
    "analysis_config": _ANALYSIS,
    "backbone_config": MODEL,
}
THREE_HEADED_MODEL = Section(
    # body: the part whose checkpoint gives encoder and body (default: classification)
    {**_MODEL_KEYS, **dict.fromkeys(HEADS, MODEL), "body": TEXT},
    required=("key", *HEADS),
)

MODELS = Section(dict.fromkeys(("teacher_model", "student_model", "model"), ANY), check="models")
METRIC = Section(
    {"key": TEXT, "args": ANY, "kwargs": ANY}, ("key",), registry="metric", check="metric"
)
TOP = Section(
    {
        "_base_": ANY,
        "beta": ANY,
        "name": TEXT,
        "data_root": TEXT,
        "dependencies": ANY,
        "datasets": Section(free=ANY),
        "models": MODELS,
        "metric": METRIC,
        "train": ANY,
        "test": TEST,
    },
    required=("datasets", "models"),
)
