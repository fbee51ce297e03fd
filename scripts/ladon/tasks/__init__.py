"""Tasks: a file each, which registers itself; the paper's three are imported here."""

# in the order of reports
from ladon.tasks import classification, detection, segmentation  # noqa: F401
from ladon.tasks.base import TASKS, Score, Task, TaskView, find_task, register

__all__ = ["TASKS", "Score", "Task", "TaskView", "find_task", "register"]
