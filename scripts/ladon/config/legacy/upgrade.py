"""The legacy schema (sc2bench 0.0.3, torchdistill 0.3.3), upgraded to the current one on load.

Top-level sections are upgraded one by one: a file may mix the schemas. A section waits until the
file, its bases and `--json` are merged, or until a layer in the other schema goes over it
(`align`). What is new in an upgraded section stands at the line of the key that it came from.

The tables here say what is called otherwise now (`legacy_form` applies them); `legacy_steps` does
what renaming cannot.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ladon.config.core import schema
from ladon.config.core.nodes import ConfigMap
from ladon.config.legacy import steps
from ladon.config.legacy.form import COMPONENT, CURRENT, LEGACY, PART, Form, Upgrade
from ladon.errors import ConfigError

_ANALYSIS = Form(inside={"analyzer_configs": Form(each=PART)})
_MODEL_KWARGS: dict[str, Form] = {
    "bottleneck_config": PART,
    "analysis_config": _ANALYSIS,
    "backbone_fpn_kwargs": Form(inside={"analysis_config": _ANALYSIS}),
}
_KWARGS = Form({"pre_transform_params": "pre_transform"}, _MODEL_KWARGS, change=steps.model_kwargs)
# `ckpt` of a teacher, a backbone or a part of the three-headed model: its weights …
_SOURCE = Form(
    {**COMPONENT, "ckpt": "src_ckpt"}, {"kwargs": _KWARGS}, now=schema.THREE_HEADED_MODEL
)
_MODEL_KWARGS["backbone_config"] = _SOURCE
# … of the student or the only model: what training writes and a test reads.
_STUDENT = Form(
    {**COMPONENT, "ckpt": "dst_ckpt"},
    {"kwargs": _KWARGS, **dict.fromkeys(schema.HEADS, _SOURCE)},
    now=schema.THREE_HEADED_MODEL,
    marks=("src_ckpt",),
    change=steps.student,
)

_LOADER = Form(
    dict.fromkeys(("random_sample", *steps.LOADER_KWARGS)),
    {"batch_sampler": PART, "dataset_wrapper": PART},
    now=schema.LOADER,
    marks=("sampler", "kwargs"),
    change=steps.loader,
)
_TERM = Form(
    {"params": "criterion_wrapper", "factor": "weight"},
    {"criterion": PART},
    now=schema.TERM,
    change=steps.term,
)
_CRITERION = Form(
    {**COMPONENT, **dict.fromkeys(("org_term", "sub_terms", "func2extract_org_loss"))},
    {"org_term": Form(inside={"criterion": PART}), "sub_terms": Form(each=_TERM)},
    now=schema.CRITERION,
    marks=("func2extract_model_loss",),
    change=steps.criterion,
)
_OPTIMIZER = Form(
    {**COMPONENT, "module_wise_params": "module_wise_kwargs"},
    {"module_wise_kwargs": Form(each=Form({"params": "kwargs"}))},
    now=schema.OPTIMIZER,
)
_SCHEDULER = Form(COMPONENT, now=schema.SCHEDULER, change=steps.scheduler)
_STAGE = Form(
    {"apex": None},
    {
        **dict.fromkeys(("train_data_loader", "val_data_loader"), _LOADER),
        "optimizer": _OPTIMIZER,
        "scheduler": _SCHEDULER,
        "criterion": _CRITERION,
    },
    has_stages=True,
    change=steps.stage,
)
SECTIONS: dict[str, Form] = {
    "datasets": Form(change=steps.datasets),
    "models": Form(inside={"teacher_model": _SOURCE, "student_model": _STUDENT, "model": _STUDENT}),
    "train": _STAGE,
    "test": Form(inside={"test_data_loader": _LOADER}),
}


def align(root: ConfigMap, layer: ConfigMap) -> tuple[ConfigMap, ConfigMap]:
    """Upgrade a legacy section where what it is merged with is in the current schema.

    Args:
        root: a config.
        layer: what will be merged over it.

    Returns:
        Both, ready to be merged.
    """
    mixed = [
        name
        for name in SECTIONS
        if {schema_of(name, root.get(name)), schema_of(name, layer.get(name))} == {LEGACY, CURRENT}
    ]
    return (upgrade(root, mixed), upgrade(layer, mixed)) if mixed else (root, layer)


def upgrade(root: ConfigMap, names: Iterable[str] = tuple(SECTIONS)) -> ConfigMap:
    """Return a config whose sections are in the current schema.

    Args:
        root: the raw nodes.
        names: the top-level sections to upgrade.

    Raises:
        ConfigError: a legacy section cannot be understood; the message names file and line.
    """
    legacy = [name for name in names if schema_of(name, root.get(name)) == LEGACY]
    if not legacy:
        return root
    work, result = Upgrade(root), root.copy()
    for name in legacy:
        result[name] = work.apply(root[name], SECTIONS[name], name)
    if work.problems:
        raise ConfigError("\n".join(work.problems))
    return result


def schema_of(name: str, node: Any) -> str | None:
    """Return the schema that a top-level section is in; None if nothing in it tells."""
    if name == "datasets" and isinstance(node, ConfigMap):
        found = {steps.dataset_schema(entry) for entry in node.values()}
    else:
        found = set(SECTIONS[name].schemas(node))
    return LEGACY if LEGACY in found else CURRENT if CURRENT in found else None
