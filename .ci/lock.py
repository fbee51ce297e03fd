"""Renews constraints.txt: every package that the Pipfile's pins bring, with its files' hashes.

make lock     # renew it, from wherever pip's own settings say that packages come from
make audit    # ask pip-audit which of its versions have known vulnerabilities
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from importlib.metadata import distributions
from pathlib import Path

from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "constraints.txt"
HEADER = """\
# Every package that the Pipfile's pins bring, each with the SHA-256 of the file that pip takes for
# Python 3.11 on Linux (x86-64); it names no place to get them from. `make lock` renews it.
# To install exactly these:
#   pip install --require-hashes -r constraints.txt && pip install --no-deps .
"""


def requirements() -> dict[str, str]:
    """Return the Pipfile's pins as pip takes them, by name."""
    sections = tomllib.loads((ROOT / "Pipfile").read_text(encoding="utf-8"))
    found = {}
    for name in ("packages", "dev-packages", "serve", "cluster", "tracking"):
        for package, pin in sections[name].items():
            extras = "" if isinstance(pin, str) else f"[{','.join(pin['extras'])}]"
            version = pin if isinstance(pin, str) else pin["version"]
            found[canonicalize_name(package)] = f"{package}{extras}{version}"
    return found


def installed(less: Iterable[str]) -> list[str]:
    """Return the versions of what is installed here: the tests have run with it."""
    there = {canonicalize_name(d.name): d.version for d in distributions()}
    return [f"{name}=={version}" for name, version in there.items() if name not in set(less)]


def renew() -> int:
    """Write the file; return the exit code."""
    pins = requirements()
    with tempfile.TemporaryDirectory() as folder:
        asked, kept, report = (Path(folder, name) for name in ("pins", "kept", "report"))
        asked.write_text("\n".join(pins.values()), encoding="utf-8")
        kept.write_text("\n".join(installed(pins)), encoding="utf-8")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run"]
        command += ["--ignore-installed", "--report", str(report)]
        code = subprocess.run([*command, "-r", str(asked), "-c", str(kept)], check=False).returncode
        if code:
            return code
        found = json.loads(report.read_text(encoding="utf-8"))["install"]
    lines = {}
    for one in found:
        name = canonicalize_name(one["metadata"]["name"])
        digits = one["download_info"]["archive_info"]["hashes"]["sha256"]
        version = one["metadata"]["version"]
        lines[name] = f"{name}=={version} \\\n    --hash=sha256:{digits}\n"
    LOCK.write_text(HEADER + "".join(lines[name] for name in sorted(lines)), encoding="utf-8")
    sys.stdout.write(f"{LOCK.name}: {len(lines)} packages\n")
    return 0


def audit() -> int:
    """Ask for known vulnerabilities: 0 none, 1 some, 2 nobody answered for all packages."""
    command = [sys.executable, "-m", "pip_audit", "--strict", "--disable-pip"]
    command += ["--require-hashes", "--progress-spinner", "off", "-r", str(LOCK)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    sys.stdout.write(done.stdout)
    if done.returncode == 0:
        return 0
    if "known vulnerabilit" in done.stderr and done.stdout.strip():
        sys.stderr.write(done.stderr)
        return 1
    last = (done.stderr.strip().splitlines() or ["no reason"])[-1]
    sys.stderr.write(
        f"nothing was audited: the service that knows of vulnerabilities did not answer for all "
        f"packages ({last}); run this where it can be reached\n"
    )
    return 2


def main() -> int:
    """Do one of the two."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--audit", action="store_true", help="ask, and leave the file as it is")
    return audit() if parser.parse_args().audit else renew()


if __name__ == "__main__":
    sys.exit(main())
