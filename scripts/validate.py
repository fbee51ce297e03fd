"""Checks configuration files without running them: `python scripts/validate.py --help`."""

from ladon.commands.validate import main
from ladon.process import run_script

if __name__ == "__main__":
    run_script(main)
