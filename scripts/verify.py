"""Repeats the final test of finished runs and compares: `python scripts/verify.py --help`."""

from ladon.commands.verify import main
from ladon.process import run_script

if __name__ == "__main__":
    run_script(main)
