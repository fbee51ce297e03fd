"""A table and curves of runs that are going on elsewhere: `python scripts/watch.py --help`."""

from ladon.commands.watch import main
from ladon.process import run_script

if __name__ == "__main__":
    run_script(main)
