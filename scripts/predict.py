"""Shows what a model finds in pictures: `python scripts/predict.py --help`."""

from ladon.commands.predict import main
from ladon.process import run_script

if __name__ == "__main__":
    run_script(main)
