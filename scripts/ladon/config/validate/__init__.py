"""Validation: registries, signatures, and everything that may be wrong with a config."""
