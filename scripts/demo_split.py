"""The demo split between a device and a server: `python scripts/demo_split.py --help`."""

from ladon.commands.demo_split import main
from ladon.process import run_script

if __name__ == "__main__":
    run_script(main)
