"""Image classification, with the legacy scripts' flags (`--log`).

    python legacy/scripts/image_classification.py --config legacy/configs/….yaml --log ….txt

It runs the engine of `scripts/image_classification.py`, which takes the same config files.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from ladon.cli import main
from ladon.process import run_script

if __name__ == "__main__":
    run_script(lambda: main("image_classification", legacy=True))
