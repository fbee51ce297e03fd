"""Patterns that result lines in logs share."""

NUMBER = r"(-?\d+(?:\.\d+)?|nan)"
"""A number, captured, as the published code prints it."""
