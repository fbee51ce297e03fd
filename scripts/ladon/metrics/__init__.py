"""Metrics: one file each, a `ladon.metrics.base.Metric` that scores batch by batch."""
