"""Answers the payloads that devices send: a server of the Open Inference Protocol v2 over HTTP.

    python scripts/serve.py --local --config CONFIG           # one process
    python scripts/serve.py --config CONFIG --replicas 2      # through Ray Serve

It answers with the model whose encoder wrote the payload; --config can be given several times. It
listens on this machine alone unless --host says otherwise, and says `serving URL` when it takes
payloads. There is a page for browsers at that URL: a picture goes in, and people see what becomes
of it. Log lines are JSON. SIGTERM or Ctrl-C: requests that are running are answered, then it
ends; a second one ends it at once. The token of --token-file, or of the variable LADON_TOKEN, is
asked of clients.

Without --local, Ray's own processes listen on all of the machine's addresses: behind a firewall
only. The replicas of a cluster (--address) must find this package, configs and checkpoints in the
same places as here.

Exit code: 0 stopped, 1 failed, 2 wrong usage or input, 130/143 stopped at once.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ladon.choices import PRECISIONS
from ladon.cli import answer, prepare_process
from ladon.errors import LadonError, UsageError
from ladon.flags import add_safe, whole_number
from ladon.launch import make_parser
from ladon.process import usable_cores

if TYPE_CHECKING:
    from ladon.serve.engine import Engine, EngineSettings

_MIB = 1 << 20
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_TOKEN = "LADON_TOKEN"  # nosec B105 # the name of a variable


def build_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    parser = make_parser("serve", __doc__)
    add_safe(parser)
    add = parser.add_argument
    add("--config", action="append", required=True, help="config or checkpoint (repeatable)")
    where = parser.add_argument_group("where")
    add = where.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    port = whole_number(0, 65535)
    add("--port", type=port, default=8000, help="0: a free one (default: %(default)s)")
    add("--token-file", type=Path, metavar="FILE", help="what clients must send as bearer token")
    add("--tls-cert", type=Path, metavar="FILE", help="certificate chain in PEM")
    add("--tls-key", type=Path, metavar="FILE", help="its key in PEM")
    add("--no-page", action="store_true", help="without the page for browsers")
    how = parser.add_argument_group("how")
    add = how.add_argument
    add("--local", action="store_true", help="in this process, without Ray")
    one = whole_number(1)
    add("--replicas", type=one, metavar="N", help="processes that answer (default: 1)")
    add("--address", help="a Ray cluster's ('auto': this machine's); default: one of its own")
    add("--device", default="cpu", help="cpu, cuda or cuda:N (default: %(default)s)")
    add("--precision", choices=PRECISIONS, default=PRECISIONS[0], help="(default: %(default)s)")
    add("--threads", type=one, metavar="N", help="torch's, of a replica (default: its share)")
    limits = parser.add_argument_group("limits")
    add = limits.add_argument
    above = _above_zero
    add("--memory", type=above, default=4, metavar="GIB", help="of models (default: %(default)s)")
    add("--max-batch", type=one, default=8, metavar="N", help="payloads (default: %(default)s)")
    delay = "that a payload waits for others (default: %(default)s)"
    add("--max-delay-ms", type=_not_negative, default=2, metavar="MS", help=delay)
    queue = "payloads; more get 503 (default: %(default)s)"
    add("--max-queue", type=one, default=64, metavar="N", help=queue)
    add(
        "--timeout", type=above, default=30, metavar="S", help="of an answer (default: %(default)s)"
    )
    add("--body-timeout", type=above, default=10, metavar="S", help="(default: %(default)s)")
    add("--max-body", type=above, default=1, metavar="MIB", help="(default: %(default)s)")
    pixels = "of a batch's encoder inputs, in millions (default: %(default)s)"
    add("--max-pixels", type=above, default=8, metavar="M", help=pixels)
    image = "of an image, in millions (default: %(default)s)"
    add("--max-image-pixels", type=above, default=32, metavar="M", help=image)
    return parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.local and (args.replicas or args.address):
        parser.error("--local is one process: it has no --replicas and no --address")
    if (args.tls_cert is None) != (args.tls_key is None):
        parser.error("--tls-cert and --tls-key go together")
    return args


def main(argv: list[str] | None = None) -> int:
    """Run the server; return the exit code."""
    args = parse_args(argv)
    prepare_process()
    return answer(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    try:
        from ladon.serve.page.routes import OPEN_PATHS, Page
        from ladon.serve.recording import JsonFormatter
        from ladon.serve.server import Address, serve
        from ladon.serve.service import Limits
    except ImportError as error:
        raise _not_installed(error) from error
    from ladon.logs import set_up_logging

    token = _token(args.token_file)
    limits = Limits(
        max_queue=args.max_queue,
        timeout=args.timeout,
        max_body=int(args.max_body * _MIB),
        body_timeout=args.body_timeout,
        token=token,
        open_paths=() if args.no_page else OPEN_PATHS,
    )
    address = Address(host=args.host, port=args.port, certificate=args.tls_cert, key=args.tls_key)
    set_up_logging(formatter=JsonFormatter())
    if args.host not in _LOOPBACK and token is None:
        logging.getLogger(__name__).warning(
            "--host %s: everybody who reaches it can use it: --token-file asks for a token",
            args.host,
        )
    routes = [] if args.no_page else Page(args.body_timeout).routes()
    at_root = "" if args.no_page else " (in a browser: the page)"
    serve(_engine(args), limits, address, lambda line: print(line + at_root, flush=True), routes)
    return 0


def _engine(args: argparse.Namespace) -> Engine:
    if args.local:
        from ladon.serve.engine import LocalEngine

        return LocalEngine(_settings(args, args.threads))
    try:
        from ladon.serve.replicas import ReplicatedEngine
    except ImportError as error:
        raise _not_installed(error) from error
    replicas = args.replicas or 1
    threads = args.threads or max(1, usable_cores() // replicas)
    return ReplicatedEngine(_settings(args, threads), replicas, args.address)


def _settings(args: argparse.Namespace, threads: int | None) -> EngineSettings:
    from ladon.serve.engine import EngineSettings

    return EngineSettings(
        sources=tuple(os.path.abspath(os.path.expanduser(one)) for one in args.config),
        most_bytes=int(args.memory * 1024 * _MIB),
        max_batch=args.max_batch,
        max_delay=args.max_delay_ms / 1000,
        max_pixels=int(args.max_pixels * 1e6),
        max_image_pixels=int(args.max_image_pixels * 1e6),
        threads=threads,
        device=args.device,
        precision=args.precision,
    )


def _token(path: Path | None) -> str | None:
    """Return the token that is asked of clients, None if none is."""
    if path is None:
        return os.environ.get(_TOKEN) or None
    try:
        token = path.expanduser().read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--token-file {path}: cannot be read ({error})") from error
    if not token or len(token.split()) != 1:
        raise UsageError(f"--token-file {path}: must hold one word")
    return token


def _not_installed(error: ImportError) -> LadonError:
    if (error.name or "").partition(".")[0] in sys.modules:
        raise error
    return UsageError(
        f"{error.name} is not installed: `pip install '.[serve]'` (or `pipenv install --categories "
        "serve`) installs what the server needs; `--local` does without ray"
    )


def _above_zero(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"must be above 0, not {text}")
    return value


def _not_negative(text: str) -> float:
    return 0.0 if float(text) == 0 else _above_zero(text)


for _type in (_above_zero, _not_negative):
    _type.__name__ = "number"  # argparse says "invalid number value"
