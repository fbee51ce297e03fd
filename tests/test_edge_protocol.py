"""Requests and responses of the Open Inference Protocol, against its own client's library."""

from __future__ import annotations

import gzip
import json
import random
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

from ladon.edge.messages import (
    HEADER_LENGTH,
    MOST_JSON_ELEMENTS,
    compress,
    decompress,
    read_message,
    write_message,
)
from ladon.edge.protocol import (
    OUTPUTS,
    ProtocolError,
    Request,
    Response,
    TooLargeError,
    answers_to_tensors,
    error_message,
    infer_path,
    tensors_to_answers,
)
from ladon.split.answers import Answers, Found, Mask

ANSWERS = Answers(
    classes=(Found(7, "Möwe", 0.1 + 0.2), Found(2, None, 0.0)),
    objects=(Found(3, "gull", 0.75, (1.5, -0.25, 1 / 3, 4e9)),),
    mask=Mask(np.arange(12, dtype=np.uint8).reshape(3, 4), ("", "sky", "sea")),
)
EMPTY = Answers(classes=None, objects=(), mask=Mask(np.zeros((1, 1), np.uint8)))
PAYLOAD = b"\x8cLD\0payload\0\0"


def as_given(answers: Answers) -> tuple:
    mask = answers.mask and (answers.mask.labels.tolist(), answers.mask.names)
    return answers.classes, answers.objects, mask


def tritons(payload: bytes = PAYLOAD, **settings) -> tuple[bytes, int]:
    """What Triton's client sends."""
    tensor = InferInput("payload", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([payload], object))
    return InferenceServerClient.generate_request_body([tensor], **settings)


def request_of(head: dict, data: bytes = b"") -> Request:
    text = json.dumps(head).encode()
    return Request.from_message(text + data, str(len(text)))


@pytest.mark.parametrize("answers", [ANSWERS, EMPTY, Answers()], ids=["all", "empty", "none"])
def test_answers_are_the_same_after_the_way(answers):
    sent = Response(
        model="m", answers=answers, request_id="7", seconds={"body": 0.25}, batch_size=3
    )
    message = sent.to_message(Request(payload=b""))

    came = Response.from_message(message.body, message.headers[HEADER_LENGTH])

    assert as_given(came.answers) == as_given(answers)
    assert (came.model, came.request_id, came.batch_size) == ("m", "7", 3)
    assert came.seconds == {"body": 0.25}


def test_outputs_are_those_of_the_metadata():
    tensors = answers_to_tensors(ANSWERS)

    assert list(tensors) == list(OUTPUTS)
    assert tensors["boxes"].shape == (1, 4)
    assert tensors["class_names"].tolist() == ["Möwe".encode(), b""]
    assert json.loads(tensors["answers"].item())["segmentation"]["size"] == [3, 4]


def test_own_request_is_the_same_after_the_way():
    sent = Request(payload=PAYLOAD, heads=("detection",), request_id="a", outputs={"boxes": True})
    message = sent.to_message()

    assert Request.from_message(message.body, message.headers[HEADER_LENGTH]) == sent


def test_tritons_request_is_read():
    body, length = tritons(
        request_id="r1", parameters={"heads": "segmentation, classification"}, priority=3
    )
    request = Request.from_message(body, str(length))

    assert request.payload == PAYLOAD
    assert request.heads == ("classification", "segmentation")
    assert (request.request_id, request.outputs, request.is_binary) == ("r1", None, True)


def test_heads_follow_from_the_outputs_that_are_listed():
    outputs = [InferRequestedOutput("mask"), InferRequestedOutput("boxes", binary_data=False)]
    body, length = tritons(outputs=outputs)
    request = Request.from_message(body, str(length))

    assert request.outputs == {"mask": True, "boxes": False}
    assert request.heads == ("detection", "segmentation")


def test_response_is_read_by_triton():
    request = Request(payload=b"", outputs={"mask": True, "boxes": False, "box_names": False})
    message = Response(model="m", answers=ANSWERS, request_id="7").to_message(request)
    length = int(message.headers[HEADER_LENGTH])
    result = InferenceServerClient.parse_response_body(message.body, header_length=length)

    np.testing.assert_array_equal(result.as_numpy("mask"), ANSWERS.mask.labels)
    np.testing.assert_array_equal(result.as_numpy("boxes"), [ANSWERS.objects[0].box])
    assert result.as_numpy("box_names").tolist() == ["gull"]
    assert result.as_numpy("class_labels") is None
    assert result.get_response()["id"] == "7"


def test_response_without_binary_data_is_all_json():
    request = Request(payload=b"", is_binary=False)
    message = Response(model="m", answers=EMPTY).to_message(request)

    assert HEADER_LENGTH not in message.headers
    result = InferenceServerClient.parse_response_body(message.body)
    assert result.as_numpy("boxes").shape == (0, 4)
    assert result.as_numpy("mask").tolist() == [[0]]


def test_output_of_a_head_that_was_not_asked_is_refused():
    with pytest.raises(ProtocolError, match=r"class_labels is of head classification, which is"):
        Response(model="m", answers=EMPTY).to_message(
            Request(payload=b"", outputs={"class_labels": True})
        )


def test_a_large_tensor_is_not_written_as_json():
    side = 1 << 10
    with pytest.raises(TooLargeError, match="ask for it as binary data"):
        write_message(
            {}, "outputs", {"mask": np.zeros((side, side + 1), np.uint8)}, frozenset({"mask"})
        )
    assert side * side == MOST_JSON_ELEMENTS


ENTRY = {
    "name": "payload",
    "datatype": "BYTES",
    "shape": [1],
    "parameters": {"binary_data_size": 6},
}
DATA = b"\x02\0\0\0ab"


@pytest.mark.parametrize(
    ("change", "data", "said"),
    [
        ({"shape": [2]}, DATA, "6 bytes are too few for 2 items"),
        ({"shape": [2**31 - 1]}, DATA, "6 bytes are too few for 2,147,483,647 items"),
        ({"shape": [2**31]}, DATA, "list of whole numbers"),
        ({"shape": [-1]}, DATA, "list of whole numbers"),
        ({"shape": [True]}, DATA, "list of whole numbers"),
        ({"shape": [1] * 9}, DATA, "list of whole numbers"),
        ({"shape": None}, DATA, "list of whole numbers"),
        ({"shape": [0] + [2**31 - 1] * 7}, DATA, "goes on after its last item"),
        ({"datatype": "FP32"}, DATA, "datatype must be one of"),
        ({"datatype": {}}, DATA, "datatype must be one of"),
        ({"datatype": "INT64"}, DATA, "1 elements has 6 bytes, not 8"),
        ({"datatype": "UINT8", "shape": [6]}, DATA, r"must be BYTES \[1\], not UINT8 \[6\]"),
        ({"name": "image"}, DATA, "the one input must be 'payload', not image"),
        ({"name": "x" * 65}, DATA, "1 to 64 characters"),
        ({"parameters": {}}, DATA, "must be binary data"),
        ({"parameters": 3}, DATA, "must be binary data"),
        ({"parameters": {"binary_data_size": 6.0}}, DATA, "must be binary data"),
        ({"parameters": {"binary_data_size": 7}}, DATA, "7 bytes of binary data, and 6 are left"),
        ({"parameters": {"binary_data_size": 5}}, DATA, "cut off within item 0"),
        ({}, DATA + b"!", "1 bytes of binary data belong to no tensor"),
        ({"shape": [2], "parameters": {"binary_data_size": 9}}, b"\1\0\0\0a1234", "within item 1"),
        ({}, b"\xff\xff\xff\xffab", "cut off within item 0"),
        ({}, b"\x01\0\0\0ab", "goes on after its last item"),
    ],
)
def test_each_fault_of_an_input_is_said(change, data, said):
    with pytest.raises(ProtocolError, match=said):
        request_of({"inputs": [{**ENTRY, **change}]}, data)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"inputs": None}, "'inputs' of a message must be a list"),
        ({"inputs": [3]}, "an object with a 'name'"),
        ({"inputs": [{**ENTRY, "parameters": {"binary_data_size": 0}}, ENTRY]}, "too few"),
        ({"parameters": []}, "'parameters' must be an object"),
        ({"parameters": {"heads": "classification,depth"}}, "'heads' must be some of"),
        ({"parameters": {"heads": ""}}, "'heads' must be some of"),
        ({"parameters": {"heads": 3}}, "'heads' must be some of"),
        ({"parameters": {"binary_data_output": 1}}, "must be true or false"),
        ({"id": 7}, "'id' must be a text"),
        ({"id": "x" * 129}, "'id' must be a text"),
        ({"outputs": 3}, "each of 'outputs' must have a 'name'"),
        ({"outputs": [{"name": "depth"}]}, "each of 'outputs' must have a 'name'"),
        ({"outputs": [{"name": "mask", "parameters": {"classification": 1}}]}, "is not known"),
        ({"outputs": [{"name": "mask", "parameters": {"binary_data": None}}]}, "true or false"),
    ],
)
def test_each_fault_of_a_request_is_said(change, said):
    with pytest.raises(ProtocolError, match=said):
        request_of({"inputs": [ENTRY], **change}, DATA)


@pytest.mark.parametrize("length", ["-1", "+1", "1_0", "1e1", " 1", "", "٣", "9" * 30, "99"])
def test_a_wrong_header_length_is_refused(length):
    with pytest.raises(ProtocolError, match=HEADER_LENGTH):
        read_message(b"{}", length, "inputs")


@pytest.mark.parametrize("text", [b"", b"[]", b"\xff", b'{"a":', b"[" * 60_000, b"9" * 60_000])
def test_what_is_no_json_object_is_refused(text):
    with pytest.raises(ProtocolError, match="JSON"):
        read_message(text, None, "inputs")


def test_a_large_json_object_is_refused_before_it_is_read():
    with pytest.raises(TooLargeError, match="send tensors as binary data"):
        read_message(b"[" * 70_000, None, "inputs")


def test_names_that_come_twice_are_refused():
    entry = {"name": "a", "datatype": "UINT8", "shape": [0], "parameters": {"binary_data_size": 0}}
    with pytest.raises(ProtocolError, match="'a' is there twice"):
        read_message(json.dumps({"inputs": [entry, entry]}).encode(), None, "inputs")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"depth": np.zeros(1)}, "'depth' is not known"),
        ({"boxes": np.zeros((1, 3))}, r"must be FP64 \[-1, 4\], not FP64 \[1, 3\]"),
        ({"boxes": np.zeros((2, 4))}, "not of one length"),
        ({"mask": np.zeros((2, 2))}, r"must be UINT8"),
    ],
)
def test_tensors_that_are_no_answers_are_refused(change, said):
    with pytest.raises(ProtocolError, match=said):
        tensors_to_answers({**answers_to_tensors(ANSWERS), **change})


def test_a_damaged_message_is_an_error_of_the_protocol_or_another_message():
    """3,000 messages with bytes changed, cut out and put in: nothing else is raised."""
    chance, body, length = random.Random(0), *tritons(parameters={"heads": "detection"})
    for _ in range(3000):
        damaged, at = bytearray(body), chance.randrange(len(body))
        way = chance.randrange(3)
        if way == 0:
            damaged[at] = chance.randrange(256)
        elif way == 1:
            del damaged[at : at + chance.randrange(1, 9)]
        else:
            damaged[at:at] = chance.randbytes(chance.randrange(1, 9))
        said = chance.choice((str(length), str(chance.randrange(2 * length)), None))
        try:
            Request.from_message(bytes(damaged), said)
        except ProtocolError:
            continue


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_compressed_bodies(encoding):
    body, library = bytes(1000), {"gzip": gzip, "deflate": zlib}[encoding]
    packed = library.compress(body)

    assert decompress(packed, encoding, 1000) == body
    assert library.decompress(compress(body, encoding)) == body
    with pytest.raises(TooLargeError, match="more than 999 bytes"):
        decompress(packed, encoding, 999)
    with pytest.raises(ProtocolError, match="cut off"):
        decompress(packed[:-1], encoding, 1000)
    with pytest.raises(ProtocolError, match="goes on after its end"):
        decompress(packed + b"!", encoding, 1000)
    with pytest.raises(ProtocolError, match=f"not compressed by {encoding}"):
        decompress(b"plain", encoding, 1000)


def test_other_bodies():
    assert decompress(b"as it is", None, 8) == b"as it is"
    with pytest.raises(TooLargeError):
        decompress(b"as it is", "identity", 7)
    with pytest.raises(ProtocolError, match="'br' is not known: take gzip or deflate"):
        decompress(b"", "br", 8)


def test_small_things():
    assert infer_path() == "/v2/models/ladon/infer"
    assert infer_path("a b/c") == "/v2/models/a%20b%2Fc/infer"
    assert error_message(b'{"error": "no"}') == "no"
    assert error_message(b"<html>") is None
    assert error_message(b"[1]") is None


def test_a_device_imports_it_without_torch():
    code = "import sys, ladon.edge.protocol; print({'torch', 'numba'} & set(sys.modules))"
    root = Path(__file__).parents[1] / "scripts"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"
