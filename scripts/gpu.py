"""Tests and times everything on a CUDA GPU: `python scripts/gpu.py --help`."""

from ladon.commands.gpu import main
from ladon.process import run_script

if __name__ == "__main__":
    run_script(main)
