"""Semantic segmentation: train by distillation, and test with real entropy coding.

    python scripts/semantic_segmentation.py --config configs/….yaml
    python scripts/semantic_segmentation.py -test_only --config …

All flags: `python scripts/semantic_segmentation.py --help`.
"""

from ladon.cli import main
from ladon.process import run_script

if __name__ == "__main__":
    run_script(lambda: main("semantic_segmentation"))
