"""Looks into a checkpoint, or writes it anew: `python scripts/checkpoint.py --help`."""

from ladon.commands.checkpoint import main
from ladon.process import run_script

if __name__ == "__main__":
    run_script(main)
