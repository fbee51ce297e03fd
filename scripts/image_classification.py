"""Image classification: train by distillation, and test with real entropy coding.

    python scripts/image_classification.py --config configs/….yaml
    python scripts/image_classification.py -test_only -student_only --config …

All flags: `python scripts/image_classification.py --help`.
"""

from ladon.cli import main
from ladon.process import run_script

if __name__ == "__main__":
    run_script(lambda: main("image_classification"))
