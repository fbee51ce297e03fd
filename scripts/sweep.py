"""Runs a task script for several β, or a family of configs: `python scripts/sweep.py --help`."""

from ladon.commands.sweep import main
from ladon.process import run_script

if __name__ == "__main__":
    run_script(main)
