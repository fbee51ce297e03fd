"""One model for every rate against separate ones: `python scripts/frontier.py --help`."""

from ladon.commands.frontier import main
from ladon.process import run_script

if __name__ == "__main__":
    run_script(main)
