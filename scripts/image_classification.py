"""Image classification: train by distillation, and test with real entropy coding.

    python scripts/image_classification.py --config configs/….yaml
    python scripts/image_classification.py -test_only -student_only --config …

All flags: `python scripts/image_classification.py --help`.
"""

from ladon.cli import main

if __name__ == "__main__":
    raise SystemExit(main("image_classification"))
