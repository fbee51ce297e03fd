"""The device's client: it asks again where that helps, and says clearly where it does not."""

from __future__ import annotations

import numpy as np
import pytest
from golden_payloads import GOLDEN, golden_bytes
from http_servers import ANSWERS, good, refusal, refused_url, serving

from ladon.edge import Client
from ladon.edge import client as clients
from ladon.edge.client import RefusedError, ServerError
from ladon.edge.messages import HEADER_LENGTH
from ladon.edge.protocol import Request, infer_path
from ladon.errors import UsageError


@pytest.fixture
def pauses(monkeypatch):
    """Pauses of the longest length that chance gives, noted and not made."""
    monkeypatch.setattr(clients.random, "uniform", lambda low, high: high)
    return []


def asked(script, pauses, **kwargs):
    with Client(script.url, sleep=pauses.append, **kwargs) as client:
        return client.answer(GOLDEN["factorized"])


def test_a_request_and_its_answer(pauses):
    with serving([good()]) as script, Client(script.url + "/", token="abc") as client:
        for heads in (None, ("detection",)):
            response = client.answer(GOLDEN["factorized"], heads)
    assert response.answers.to_plain() == ANSWERS.to_plain()
    assert np.array_equal(response.answers.mask.labels, ANSWERS.mask.labels)
    assert (response.model, response.seconds, response.batch_size) == ("a", {"body": 0.25}, 2)
    for (path, headers, body), expected in zip(
        script.requests, (None, ("detection",)), strict=True
    ):
        assert path == infer_path()
        assert headers["Authorization"] == "Bearer abc"
        request = Request.from_message(body, headers[HEADER_LENGTH])
        assert request.payload == golden_bytes("factorized")
        assert request.heads == expected


def test_what_may_pass_is_tried_again_after_longer_and_longer_pauses(pauses):
    answers = [refusal(503, "full"), None, refusal(502, "a proxy"), refusal(429, "slow"), good()]
    with serving(answers) as script:
        assert asked(script, pauses).model == "a"
    assert len(script.requests) == 5
    assert pauses == [0.2, 0.4, 0.8, 1.6]


@pytest.mark.parametrize(
    ("asks", "expected"), [("3", 3.0), ("0", 0.2), ("900", 10.0), ("Fri, 27 Nov", 0.2)]
)
def test_the_server_says_how_long_to_wait(pauses, asks, expected):
    with serving([refusal(503, "full", Retry_After=asks), good()]) as script:
        asked(script, pauses)
    assert pauses == [expected]


def test_a_server_that_stays_full_is_given_up(pauses):
    with (
        serving([refusal(503, "the queue is full")]) as script,
        pytest.raises(
            ServerError, match=rf"^{script.url} says \(503\): the queue is full, 3 times$"
        ) as refused,
    ):
        asked(script, pauses, retries=2)
    assert len(script.requests) == 3
    assert len(pauses) == 2
    assert refused.value.exit_code == 1


def test_a_server_that_is_not_there_is_given_up(pauses):
    url = refused_url()
    with (
        Client(url, sleep=pauses.append, retries=4) as client,
        pytest.raises(ServerError, match=r" cannot be reached \(Conn.*\), 5 times$"),
    ):
        client.answer(b"any")
    assert pauses == [0.2, 0.4, 0.8, 1.6]


def test_pauses_end_growing(pauses):
    with serving([None]) as script, pytest.raises(ServerError, match="9 times"):
        asked(script, pauses, retries=8)
    assert pauses[-3:] == [6.4, 10.0, 10.0]


@pytest.mark.parametrize("status", [400, 401, 404, 413, 500])
def test_a_refusal_is_final_and_says_the_servers_words(pauses, status):
    with (
        serving([refusal(status, "not you")]) as script,
        pytest.raises(
            RefusedError, match=rf"^{script.url} refuses \({status}\): not you$"
        ) as refused,
    ):
        asked(script, pauses)
    assert (len(script.requests), pauses) == (1, [])
    assert (refused.value.status, refused.value.exit_code) == (status, 1)


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"model_name": "a", "outputs": [3]}'])
def test_what_is_no_answer_is_called_so(pauses, body):
    with (
        serving([(200, {}, body)]) as script,
        pytest.raises(ServerError, match=r"no answer of a Ladon server: "),
    ):
        asked(script, pauses)


def test_an_answer_without_end_is_cut(pauses, monkeypatch):
    monkeypatch.setattr(clients, "MOST_RESPONSE_BYTES", 99)
    with (
        serving([(200, {}, bytes(100))]) as script,
        pytest.raises(ServerError, match="more than 99 bytes"),
    ):
        asked(script, pauses)


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://x", "http://", "http://x:no", "//x"])
def test_what_is_no_url_is_refused(url):
    with pytest.raises(UsageError, match="no URL"):
        Client(url)


def test_a_file_without_certificates_is_named(tmp_path):
    (tmp_path / "ca.pem").write_text("nothing")
    for name in ("ca.pem", "missing.pem"):
        with pytest.raises(UsageError, match=rf"{name}: no certificates in PEM"):
            Client("https://127.0.0.1", ca=tmp_path / name)
