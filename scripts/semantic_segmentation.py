"""Semantic segmentation: train by distillation, and test with real entropy coding.

    python scripts/semantic_segmentation.py --config configs/….yaml
    python scripts/semantic_segmentation.py -test_only --config …

All flags: `python scripts/semantic_segmentation.py --help`.
"""

from ladon.cli import main

if __name__ == "__main__":
    raise SystemExit(main("semantic_segmentation"))
