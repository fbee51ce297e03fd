"""The legacy schema, upgraded to the current one on load."""
