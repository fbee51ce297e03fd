"""Object detection: train by distillation, and test with real entropy coding.

    python scripts/object_detection.py --config configs/….yaml
    python scripts/object_detection.py -test_only --config …

All flags: `python scripts/object_detection.py --help`.
"""

from ladon.cli import main

if __name__ == "__main__":
    raise SystemExit(main("object_detection"))
