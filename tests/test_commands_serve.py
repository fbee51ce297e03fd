"""The command `serve`: flags that cannot be meant, and what it cannot use."""

from __future__ import annotations

import re
import socket

import pytest

from ladon.commands.serve import main, parse_args
from ladon.serve.page.routes import OPEN_PATHS
from ladon.serve.server import Address

CONFIG = ("--config", "nowhere.yaml")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((), "--config"),
        ((*CONFIG, "--local", "--replicas", "2"), "--local is one process"),
        ((*CONFIG, "--local", "--address", "auto"), "--local is one process"),
        ((*CONFIG, "--tls-cert", "x"), "go together"),
        ((*CONFIG, "--memory", "0"), "must be above 0, not 0"),
        ((*CONFIG, "--max-delay-ms", "-1"), "must be above 0, not -1"),
        ((*CONFIG, "--timeout", "nan"), "must be above 0, not nan"),
        ((*CONFIG, "--port", "70000"), "must be between 0 and 65535"),
    ],
)
def test_flags_that_cannot_be_meant(flags, said, capsys):
    with pytest.raises(SystemExit) as stop:
        parse_args(list(flags))
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


def refusal(capsys, *flags) -> str:
    """What the command says when it does not start."""
    assert main(["--local", "--port", "0", *CONFIG, *map(str, flags)]) == 2
    return capsys.readouterr().err


def test_what_it_cannot_use(capsys, tmp_path, monkeypatch):
    monkeypatch.delenv("LADON_TOKEN", raising=False)
    two, pem = tmp_path / "two", tmp_path / "pem"
    two.write_text("one two")
    pem.write_text("no PEM")
    missing = tmp_path / "missing"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for flags, said in (
            (("--token-file", missing), rf"--token-file {missing}: cannot be read"),
            (("--token-file", two), "must hold one word"),
            (("--tls-cert", missing, "--tls-key", missing), "No such file"),
            (("--tls-cert", pem, "--tls-key", pem), "no certificate in PEM that fits its key"),
            (("--host", "no.such.host.invalid"), "--host no.such.host.invalid: "),
            (("--port", port), rf"--port {port}: Address already in use; --port 0 takes a free"),
            ((), "config file not found: .*nowhere.yaml"),
        ):
            assert re.search(said, refusal(capsys, *flags)), flags


def test_it_listens_on_loopback_unless_told_otherwise():
    with Address(port=0).bound() as bound:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", Address(port=0).url(bound))
        assert bound.proto == socket.IPPROTO_TCP  # or else asyncio leaves TCP_NODELAY off
    args = parse_args(list(CONFIG))
    assert (args.host, args.local) == ("127.0.0.1", False)


@pytest.mark.parametrize("flags", [(), ("--no-page",)], ids=["page", "none"])
def test_the_page_is_there_unless_it_is_left_out(flags, monkeypatch, capsys):
    def serve(engine, limits, address, say, routes):
        say("serving http://127.0.0.1:1")
        assert limits.open_paths == (() if flags else OPEN_PATHS)
        assert [route.path for route in routes][:1] == ([] if flags else ["/"])

    monkeypatch.setattr("ladon.serve.server.serve", serve)
    assert main(["--local", *CONFIG, *flags]) == 0
    said = capsys.readouterr().out
    assert said == f"serving http://127.0.0.1:1{'' if flags else ' (in a browser: the page)'}\n"
