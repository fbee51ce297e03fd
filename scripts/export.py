"""Writes a model's device half: `python scripts/export.py --help`."""

from ladon.commands.export import main
from ladon.process import run_script

if __name__ == "__main__":
    run_script(main)
