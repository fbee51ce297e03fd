"""Names of metrics' values that reports read without loading what computes them."""

COCO_STATS = (
    "AP",
    "AP50",
    "AP75",
    "APs",
    "APm",
    "APl",
    "AR1",
    "AR10",
    "AR100",
    "ARs",
    "ARm",
    "ARl",
)
"""pycocotools' twelve numbers, in the order of its summary."""
