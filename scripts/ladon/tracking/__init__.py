"""What is told of a run while it goes on, and who listens: files, TensorBoard, tracking clients."""

from ladon.tracking.journal import Journal, Sink, scalars
from ladon.tracking.opening import TRAINING_FILES, open_journal

__all__ = ["TRAINING_FILES", "Journal", "Sink", "open_journal", "scalars"]
