"""Choices of flags and configs. Imports nothing: the command line reads it first."""

MODES = ("full", "encode", "estimate")
"""How an evaluation codes. full: encode, decode, score what was decoded; encode: encode for the
size, score the quantised latent; estimate: size from the tables, nothing is coded."""

ON_BAD_SAMPLE = ("error", "skip")
"""What a training does about a sample that cannot be loaded; skip: another one takes its place."""

INPUTS = ("reference", "fast")
"""How a classifier's test images are read: as published (PIL), or on uint8 tensors."""

PRECISIONS = ("float32", "bf16")
"""Arithmetic of decoder, body and heads; what comes before the payload is always float32."""

HEADS = ("classification", "detection", "segmentation")
"""What a server half can be asked, in the order in which it answers."""
