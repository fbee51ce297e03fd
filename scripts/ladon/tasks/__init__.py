"""The three tasks. A further task is one module with a ``Task`` and one line here."""

from ladon.tasks.base import Metric, Task
from ladon.tasks.classification import ImageClassification
from ladon.tasks.detection import ObjectDetection
from ladon.tasks.segmentation import SemanticSegmentation

TASKS: dict[str, type[Task]] = {
    task.name: task for task in (ImageClassification, ObjectDetection, SemanticSegmentation)
}

__all__ = ["TASKS", "Metric", "Task"]
