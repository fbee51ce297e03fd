"""Which encoder wrote a payload: a hash of all that its strings depend on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor

from ladon.bottlenecks.base import Bottleneck
from ladon.bottlenecks.entropy import entropy_models, has_tables, rules_of
from ladon.codec.container import ENCODER_ID_BYTES
from ladon.errors import UsageError

# what coders read of an entropy model besides its tables: medians, and the least scale
_BESIDE_TABLES = ("quantiles", "lower_bound_scale.bound")


def encoder_id(bottleneck: Bottleneck) -> bytes:
    """Return the id of a bottleneck's encoder, by which a receiver knows whose payload it has.

    It is the BLAKE2b of the kind's name and of names, types, shapes and values of what the strings
    depend on: the weights of the transforms that sender and receiver compute alike, tables,
    quantiles. Device, memory format, decoder and how the model is wrapped do not change it. Models
    for several tasks around one frozen encoder have one id.

    Args:
        bottleneck: updated, and with no evaluation open, which exchanges layers of the encoder for
            faster ones of the same values.

    Returns:
        8 bytes.

    Raises:
        UsageError: if there are no tables yet, or an evaluation is open.
    """
    if not all(map(has_tables, entropy_models(bottleneck).values())):
        raise UsageError("CDF tables are missing: update() the bottleneck before it has an id")
    if bottleneck.is_coding:
        raise UsageError("an encoder's id is taken before its evaluation is opened")
    digest = hashlib.blake2b(type(bottleneck).__name__.encode(), digest_size=ENCODER_ID_BYTES)
    for name, tensor in sorted(_what_strings_depend_on(bottleneck), key=lambda item: item[0]):
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(_values(tensor))
    return digest.digest()


def _what_strings_depend_on(bottleneck: Bottleneck) -> Iterator[tuple[str, Tensor]]:
    for number, transform in enumerate(bottleneck.transforms):
        for name, tensor in transform.state_dict().items():
            if not name.endswith("num_batches_tracked"):  # nothing reads it, and old files lack it
                yield f"{number}.{name}", tensor
    for path, model in entropy_models(bottleneck).items():
        rules = rules_of(model)
        wanted = {*_BESIDE_TABLES, *(() if rules is None else rules.names)}
        for name, tensor in model.state_dict().items():
            if name in wanted:
                yield f"{path}.{name}", tensor


def _values(tensor: Tensor) -> bytes:
    """Return the values' bytes in the order of their indices; all hosts here are little-endian."""
    values = tensor.detach().cpu().contiguous().reshape(-1)
    return values.view(torch.uint8).numpy().tobytes()
