"""Object detection: train by distillation, and test with real entropy coding.

    python scripts/object_detection.py --config configs/….yaml
    python scripts/object_detection.py -test_only --config …

All flags: `python scripts/object_detection.py --help`.
"""

from ladon.cli import main
from ladon.process import run_script

if __name__ == "__main__":
    run_script(lambda: main("object_detection"))
