"""Answers payloads over HTTP: `python scripts/serve.py --help`."""

from ladon.commands.serve import main
from ladon.process import run_script

if __name__ == "__main__":
    run_script(main)
