"""Checks of `reset_head`: whether there is something to reset, and what reads an untrained head."""

from __future__ import annotations

from ladon.backbones import head_names
from ladon.config.core import schema
from ladon.config.validate.validator import ConfigNode, Validator

_TEACHER = "models.teacher_model"
_IN_KWARGS = ("weights", "pretrained", "org_model_ckpt_file_path_or_url")
_COMPOSED = ("faster_rcnn_model", "deeplabv3_model")  # whose backbone brings its own weights
_START = "start_ckpt_file_path"


def check_reset_head(validator: Validator, model: ConfigNode) -> None:
    """Check that a model with `reset_head` has a head of its own, and weights to leave it out of.

    Args:
        validator: the validator.
        model: a section of a model, of a backbone or of a part of the three-headed model.
    """
    flag = validator.child(model, "reset_head")
    if flag is None or flag.value is not True:
        return
    key, kwargs = validator.child(model, "key"), validator.child(model, "kwargs")
    if key is None or key.is_unresolved:
        return
    if key.value == "ladon":
        text = "the three-headed model is not trained: each head brings its own checkpoint"
        validator.add(flag, f"{text}; leave it out")
        return
    if model.path.rpartition(".")[2] not in schema.MODELS.keys:
        validator.add(flag, "belongs into the section of the whole model, under models")
        return
    inner = (_START,) if key.value in _COMPOSED else _IN_KWARGS
    found = [] if kwargs is None else [validator.child(kwargs, name) for name in inner]
    sources = [validator.child(model, "src_ckpt"), *found]
    if all(source is None or source.value is False for source in sources):
        names = ", ".join(["src_ckpt", *(f"kwargs.{name}" for name in inner)])
        text = f"{model.path} starts from no weights ({names}), so that its head is fresh anyway"
        validator.add(flag, f"{text}; leave it out, or name what the model starts from")


def check_answer_read(validator: Validator, term: ConfigNode, node: ConfigNode, path: str) -> None:
    """Check that a loss reads no answer of a teacher whose class layers are untrained.

    Args:
        validator: the validator.
        term: of the loss.
        node: where the config says what is read.
        path: the teacher's module whose output is read.
    """
    flag = validator.root()
    for name in (*_TEACHER.split("."), "reset_head"):
        child = validator.child(flag, name) if isinstance(flag.value, dict) else None
        if child is None:
            return
        flag = child
    heads = ("", "classifier", "head", "heads", *head_names())
    if (
        flag.value is not True
        or path.split(".")[0] not in heads
        or _reads_labels_only(validator, term)
    ):
        return
    validator.add(
        node,
        f"reads the answers of a teacher whose class layers are untrained ({_TEACHER}.reset_head): "
        "let it learn the classes first and name its checkpoint in src_ckpt, without reset_head; "
        "or learn from the labels alone (CrossEntropyLoss, or KDLoss with alpha: 1.0)",
    )


def _reads_labels_only(validator: Validator, term: ConfigNode) -> bool:
    node: ConfigNode | None = term
    for name in ("criterion", "kwargs", "alpha"):
        node = validator.child(node, name) if node is not None else None
    return node is not None and node.value == 1
