"""Benchmarks against the published way: `python scripts/benchmark.py --help`."""

from ladon.commands.benchmark import main
from ladon.process import run_script

if __name__ == "__main__":
    run_script(main)
