"""Watching runs from outside, by what they leave in their folders; loads no torch."""
