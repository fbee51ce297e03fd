"""Encodes images on a device and asks a server about them: `python edge.py --help`."""

from ladon.edge.main import main
from ladon.process import run_script

if __name__ == "__main__":
    run_script(main)
