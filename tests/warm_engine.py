"""A sweep's local engine whose processes have imported the libraries already (`warm`)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import warm

from ladon.children import Say
from ladon.sweeps.engines import LocalEngine


class WarmEngine(LocalEngine):
    """Runs the same commands in the same environment; their lines are said when they have ended."""

    def __call__(
        self, command: Sequence[str], env: Mapping[str, str] | None = None, say: Say | None = None
    ) -> int:
        """Run a command, which begins with Python and a script."""
        done = warm.run(command[1:], env={**os.environ, **(env or {})})
        for line in (done.stdout + done.stderr).splitlines():
            if say is not None:
                say(line)
        return done.returncode
