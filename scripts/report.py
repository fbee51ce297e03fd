"""Tables and the rate-accuracy plot of finished runs: `python scripts/report.py --help`."""

from ladon.commands.report import main
from ladon.process import run_script

if __name__ == "__main__":
    run_script(main)
