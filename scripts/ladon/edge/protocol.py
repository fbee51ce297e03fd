"""What device and server say to each other: requests and responses, and how answers are tensors.

In the Open Inference Protocol v2 (`ladon.edge.messages`), so that its clients work, too:

    POST /v2/models/NAME/infer
    input       `payload`, BYTES [1]: one payload (`ladon.codec.container`), as binary data
    parameter   `heads`: those that are asked, joined by commas; left out: all that `outputs` need,
                or else all that the model has
    outputs     those of `OUTPUTS` whose heads were asked, or the ones of them that are listed
    parameters  of the response: `NAME_seconds` for each stage, `batch_size`, `encoder_id`

NAME is a model's, or `ANY_MODEL`: the payload says which. Errors are `{"error": "…"}`.
Needs numpy only.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np

from ladon.choices import HEADS
from ladon.codec.container import MOST_IMAGE_PIXELS
from ladon.edge.messages import (
    Message,
    ProtocolError,
    Tensors,
    TooLargeError,
    datatype_of,
    is_whole,
    read_message,
    write_message,
)
from ladon.split.answers import Answers, Found, Mask

__all__ = [
    "ANY_MODEL",
    "HEADS",
    "OUTPUTS",
    "PAYLOAD",
    "Message",
    "Output",
    "ProtocolError",
    "Request",
    "Response",
    "TooLargeError",
    "answers_to_tensors",
    "error_message",
    "infer_path",
    "tensors_to_answers",
]

ANY_MODEL = "ladon"
"""The name under which a payload is answered by the model that has its encoder's id."""
PAYLOAD = "payload"
_MOST_ID = 128
_SECONDS = "_seconds"


class Output(NamedTuple):
    """An output: the head it comes from (None: all), its type, and its shape (-1: any side)."""

    head: str | None
    datatype: str
    shape: tuple[int, ...]


OUTPUTS = {
    "class_labels": Output("classification", "INT64", (-1,)),
    "class_scores": Output("classification", "FP64", (-1,)),
    "class_names": Output("classification", "BYTES", (-1,)),
    "boxes": Output("detection", "FP64", (-1, 4)),
    "box_labels": Output("detection", "INT64", (-1,)),
    "box_scores": Output("detection", "FP64", (-1,)),
    "box_names": Output("detection", "BYTES", (-1,)),
    "mask": Output("segmentation", "UINT8", (-1, -1)),
    "mask_names": Output("segmentation", "BYTES", (-1,)),
    "answers": Output(None, "BYTES", (1,)),
}
"""By name, in the order of a response. A name that is not known is empty; `mask_names` has no
elements then. `answers` is `Answers.to_plain` as JSON. FP64 is what Python computes with: nothing
is rounded on the way."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a device asks.

    Attributes:
        payload: the bytes of one payload.
        heads: those that are asked; None: all that the model has.
        request_id: comes back in the response, and in the server's log.
        outputs: names of those that are wanted, and whether as binary data; None: all.
        is_binary: whether outputs that are not listed are wanted as binary data.
    """

    payload: bytes
    heads: tuple[str, ...] | None = None
    request_id: str = ""
    outputs: Mapping[str, bool] | None = None
    is_binary: bool = True

    def to_message(self) -> Message:
        """Return it as it is sent."""
        parameters: dict[str, Any] = {"binary_data_output": self.is_binary}
        if self.heads is not None:
            parameters["heads"] = ",".join(self.heads)
        head: dict[str, Any] = {"parameters": parameters}
        if self.request_id:
            head["id"] = self.request_id
        if self.outputs is not None:
            listed = self.outputs.items()
            head["outputs"] = [{"name": n, "parameters": {"binary_data": b}} for n, b in listed]
        return write_message(head, "inputs", {PAYLOAD: _byte_strings([self.payload])})

    @classmethod
    def from_message(cls, body: bytes, header_length: str | None) -> Request:
        """Read what `to_message` gave, or another client's message.

        Args:
            body: without compression; bound it before.
            header_length: the value of its header `HEADER_LENGTH`; None: it has none.

        Raises:
            ProtocolError: it is no request of this protocol.
        """
        head, tensors = read_message(body, header_length, "inputs")
        payload = tensors.get(PAYLOAD)
        if payload is None or len(tensors) != 1:
            raise ProtocolError(f"the one input must be '{PAYLOAD}', not {_listed(tensors)}")
        if payload.dtype != object or payload.size != 1:
            raise ProtocolError(
                f"input '{PAYLOAD}' must be BYTES [1], not {datatype_of(payload)} "
                f"{list(payload.shape)}: one payload a request; the server batches them"
            )
        parameters, is_binary = _parameters(head), False
        if "binary_data_output" in parameters:
            is_binary = _flag(parameters, "binary_data_output")
        outputs = _wanted(head, is_binary)
        return cls(
            payload=payload.item(),
            heads=_heads(parameters.get("heads"), outputs),
            request_id=_request_id(head),
            outputs=outputs,
            is_binary=is_binary,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Response:
    """What a server answers.

    Attributes:
        model: its name.
        answers: of the heads that were asked.
        request_id: the request's.
        seconds: by stage, as the server measured them; of a batch, all of it.
        batch_size: how many payloads were answered together.
        encoder_id: of the model, as hexadecimal digits.
    """

    model: str
    answers: Answers
    request_id: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)
    batch_size: int = 1
    encoder_id: str = ""

    def to_message(self, request: Request) -> Message:
        """Return it as it is sent, with the outputs that the request wants.

        Raises:
            ProtocolError: it wants one of a head that has not answered, or too much as JSON.
        """
        tensors = answers_to_tensors(self.answers)
        as_json = frozenset[str]() if request.is_binary else frozenset(tensors)
        if request.outputs is not None:
            missing = [name for name in request.outputs if name not in tensors]
            if missing:
                raise ProtocolError(
                    f"output {missing[0]} is of head {OUTPUTS[missing[0]].head}, which is not "
                    f"among those that answer: {_listed(list(self.answers))}"
                )
            tensors = {name: tensors[name] for name in request.outputs}
            as_json = frozenset(name for name, binary in request.outputs.items() if not binary)
        parameters = {f"{stage}{_SECONDS}": value for stage, value in self.seconds.items()}
        head: dict[str, Any] = {
            "model_name": self.model,
            "parameters": {
                **parameters,
                "batch_size": self.batch_size,
                "encoder_id": self.encoder_id,
            },
        }
        if self.request_id:
            head["id"] = self.request_id
        return write_message(head, "outputs", tensors, as_json)

    @classmethod
    def from_message(cls, body: bytes, header_length: str | None) -> Response:
        """Read what `to_message` gave for a request that wants binary data.

        Raises:
            ProtocolError: it is no response of this protocol.
        """
        head, tensors = read_message(body, header_length, "outputs")
        parameters = _parameters(head)
        model, batch_size = head.get("model_name"), parameters.get("batch_size", 1)
        if not isinstance(model, str) or not is_whole(batch_size, 2**31):
            raise ProtocolError("a response without 'model_name', or with an absurd 'batch_size'")
        return cls(
            model=model,
            answers=tensors_to_answers(tensors),
            request_id=_request_id(head),
            seconds={
                key.removesuffix(_SECONDS): value
                for key, value in parameters.items()
                if key.endswith(_SECONDS) and isinstance(value, float)
            },
            batch_size=batch_size,
            encoder_id=str(parameters.get("encoder_id", "")),
        )


def infer_path(model: str = ANY_MODEL) -> str:
    """Return the path, below a server's URL, where requests to a model are sent."""
    return f"/v2/models/{quote(model, safe='')}/infer"


def error_message(body: bytes) -> str | None:
    """Return what a response with an error's status says, None if it is no such thing."""
    try:
        head = json.loads(body[: 1 << 16])
    except (ValueError, RecursionError):
        return None
    said = head.get("error") if isinstance(head, dict) else None
    return said if isinstance(said, str) else None


def answers_to_tensors(answers: Answers) -> dict[str, np.ndarray]:
    """Return answers as the outputs of the heads that gave them."""
    tensors: dict[str, np.ndarray] = {}
    for found, prefix in ((answers.classes, "class"), (answers.objects, "box")):
        if found is None:
            continue
        if prefix == "box":
            boxes = [one.box or (np.nan,) * 4 for one in found]
            tensors["boxes"] = np.array(boxes, np.float64).reshape(-1, 4)
        tensors[f"{prefix}_labels"] = np.array([one.label for one in found], np.int64)
        tensors[f"{prefix}_scores"] = np.array([one.score for one in found], np.float64)
        tensors[f"{prefix}_names"] = _texts(one.name for one in found)
    if answers.mask is not None:
        tensors["mask"] = answers.mask.labels
        tensors["mask_names"] = _texts(answers.mask.names or ())
    plain = json.dumps(answers.to_plain(), separators=(",", ":"))
    tensors["answers"] = _byte_strings([plain.encode()])
    return tensors


def tensors_to_answers(tensors: Tensors) -> Answers:
    """Return the answers of whose heads all outputs are there.

    Raises:
        ProtocolError: they are not what `answers_to_tensors` gives.
    """
    for name, tensor in tensors.items():
        _check_output(name, tensor)
    there = {head: _is_whole_head(head, tensors) for head in HEADS}
    mask = None
    if there["segmentation"]:
        names = tuple(map(_text, tensors["mask_names"].tolist()))
        mask = Mask(tensors["mask"], names or None)
    return Answers(
        classes=_found(tensors, "class") if there["classification"] else None,
        objects=_found(tensors, "box") if there["detection"] else None,
        mask=mask,
    )


def _is_whole_head(head: str, tensors: Tensors) -> bool:
    return all(name in tensors for name, output in OUTPUTS.items() if output.head == head)


def _check_output(name: str, tensor: np.ndarray) -> None:
    output = OUTPUTS.get(name)
    if output is None:
        raise ProtocolError(f"output '{name}' is not known")
    fits = len(tensor.shape) == len(output.shape) and all(
        side in (-1, given) for side, given in zip(output.shape, tensor.shape, strict=True)
    )
    if not fits or datatype_of(tensor) != output.datatype:
        raise ProtocolError(
            f"output '{name}' must be {output.datatype} {list(output.shape)}, not "
            f"{datatype_of(tensor)} {list(tensor.shape)}"
        )
    if name == "mask" and tensor.size > MOST_IMAGE_PIXELS:
        raise TooLargeError(f"a mask of {tensor.size:,} pixels, over {MOST_IMAGE_PIXELS:,}")


def _found(tensors: Tensors, prefix: str) -> tuple[Found, ...]:
    columns = [tensors[f"{prefix}_{what}"].tolist() for what in ("labels", "names", "scores")]
    boxes = tensors["boxes"].tolist() if prefix == "box" else [None] * len(columns[0])
    if len({*map(len, columns), len(boxes)}) != 1:
        raise ProtocolError(f"the outputs {prefix}_… are not of one length")
    return tuple(
        Found(label, _text(name) or None, score, None if box is None else tuple(box))
        for label, name, score, box in zip(*columns, boxes, strict=True)
    )


def _parameters(head: Mapping[str, Any]) -> dict[str, Any]:
    parameters = head.get("parameters", {})
    if not isinstance(parameters, dict):
        raise ProtocolError("'parameters' must be an object")
    return parameters


def _request_id(head: Mapping[str, Any]) -> str:
    request_id = head.get("id", "")
    if not isinstance(request_id, str) or len(request_id) > _MOST_ID:
        raise ProtocolError(f"'id' must be a text of at most {_MOST_ID} characters")
    return request_id


def _flag(parameters: Mapping[str, Any], name: str) -> bool:
    value = parameters[name]
    if not isinstance(value, bool):
        raise ProtocolError(f"parameter '{name}' must be true or false")
    return value


def _wanted(head: Mapping[str, Any], is_binary: bool) -> dict[str, bool] | None:
    """Return the outputs that a request lists, and whether as binary data; None: it does not."""
    listed = head.get("outputs")
    if listed is None or listed == []:
        return None
    wanted: dict[str, bool] = {}
    for entry in listed if isinstance(listed, list) else [listed]:
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(name, str) or name not in OUTPUTS:
            raise ProtocolError(f"each of 'outputs' must have a 'name': {_listed(OUTPUTS)}")
        parameters = _parameters(entry)
        if unknown := parameters.keys() - {"binary_data"}:
            raise ProtocolError(f"output '{name}': parameter '{min(unknown)[:40]}' is not known")
        wanted[name] = _flag(parameters, "binary_data") if parameters else is_binary
    return wanted


def _heads(text: Any, outputs: Mapping[str, bool] | None) -> tuple[str, ...] | None:
    """Return the heads that a request asks, in `HEADS`'s order."""
    if text is not None:
        asked = {part.strip() for part in text.split(",")} if isinstance(text, str) else {""}
        if not asked <= set(HEADS):
            raise ProtocolError(
                f"parameter 'heads' must be some of {_listed(HEADS)}, joined by commas"
            )
    elif outputs is None or "answers" in outputs:
        return None
    else:
        asked = {OUTPUTS[name].head or "" for name in outputs}
    return tuple(head for head in HEADS if head in asked)


def _byte_strings(items: Iterable[bytes]) -> np.ndarray:
    listed = list(items)
    array = np.empty(len(listed), object)
    array[:] = listed
    return array


def _texts(items: Iterable[str | None]) -> np.ndarray:
    return _byte_strings((item or "").encode(errors="replace") for item in items)


def _text(data: bytes) -> str:
    return data.decode(errors="replace")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
