"""Compares ways of sharing the work with a server: `python scripts/measure_split.py --help`."""

from ladon.commands.measure_split import main
from ladon.process import run_script

if __name__ == "__main__":
    run_script(main)
