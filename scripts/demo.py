"""All of Ladon on a small data set that is drawn here: `python scripts/demo.py --help`."""

from ladon.commands.demo import main
from ladon.process import run_script

if __name__ == "__main__":
    run_script(main)
