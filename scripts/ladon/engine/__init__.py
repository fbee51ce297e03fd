"""The engine: one `train` and one `evaluate` for all tasks."""
