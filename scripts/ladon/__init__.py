"""Ladon: multi-task supervised compression for split computing."""
