"""What result lines in logs have in common."""

NUMBER = r"(-?\d+(?:\.\d+)?|nan)"
"""A number, captured, as the published code prints it."""
