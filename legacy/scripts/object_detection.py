"""Object detection, with the legacy scripts' flags (`--log`).

    python legacy/scripts/object_detection.py --config legacy/configs/….yaml --log ….txt

It runs the engine of `scripts/object_detection.py`, which takes the same config files.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from ladon.cli import main
from ladon.process import run_script

if __name__ == "__main__":
    run_script(lambda: main("object_detection", legacy=True))
