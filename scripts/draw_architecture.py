"""Draws the pictures of the architecture: `python scripts/draw_architecture.py --help`."""

from ladon.commands.draw_architecture import main
from ladon.process import run_script

if __name__ == "__main__":
    run_script(main)
