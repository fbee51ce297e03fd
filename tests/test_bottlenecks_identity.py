"""An encoder's id: equal wherever payloads are, and different where they may differ."""

from __future__ import annotations

import copy
import re

import hyperpriors
import pytest
import torch
from students import coded, detector_section, splittable, splittable_section

from ladon.bottlenecks import encoder_id, entropy_coding, find_bottleneck, update_bottleneck
from ladon.bottlenecks.entropy import set_tables, tables
from ladon.bottlenecks.factorized import FPBasedResNetBottleneck
from ladon.errors import UsageError
from ladon.models import build_model, load_into, read_checkpoint, write_checkpoint
from ladon.models.inference import inference

KINDS = ("FPBasedResNetBottleneck", *hyperpriors.KINDS)


def student(kind, updated=True):
    if kind in hyperpriors.KINDS:
        return hyperpriors.student(kind, updated=updated)
    if not updated:
        return splittable().eval()
    return coded()


def id_of(model):
    return encoder_id(find_bottleneck(model))


@pytest.mark.parametrize("kind", KINDS)
def test_an_id_is_of_values_only(kind, tmp_path):
    model = student(kind)
    expected = id_of(model)
    assert len(expected) == 8
    assert id_of(copy.deepcopy(model)) == expected
    assert id_of(model.to(memory_format=torch.contiguous_format)) == expected
    assert id_of(model.to(memory_format=torch.channels_last)) == expected
    with torch.inference_mode(), inference(model, "full"):
        model(torch.zeros(1, 3, 64, 64))
    assert id_of(model) == expected
    path = tmp_path / "s.pt"
    write_checkpoint(path, model)
    torch.manual_seed(99)
    other = student(kind, updated=False)
    load_into(other, read_checkpoint(path, "the test"))
    assert id_of(other) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_changes_payloads_changes_the_id(kind):
    model = student(kind)
    bottleneck = find_bottleneck(model)
    seen = {id_of(model)}
    tensors = dict(bottleneck.named_buffers()) | dict(bottleneck.named_parameters())
    changed = [
        name
        for name in tensors
        if re.search(
            r"^(encoder|g_a|h_a|h_s)\.\d+\.weight$|quantiles$|_quantized_cdf$|_cdf_length$|_offset$"
            r"|scale_table$",
            name,
        )
    ]
    assert len(changed) >= 7
    for name in changed:
        with torch.no_grad():
            tensors[name].add_(1)
        seen.add(id_of(model))
    assert len(seen) == 1 + len(changed)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_behind_the_payload_does_not_change_the_id(kind):
    model = student(kind)
    expected = id_of(model)
    with torch.no_grad():
        for parameter in find_bottleneck(model).synthesis.parameters():
            parameter.add_(1)
    assert id_of(model) == expected


def test_kinds_and_seeds_have_ids_of_their_own():
    ids = {id_of(student(kind)) for kind in KINDS}
    torch.manual_seed(6)
    section = splittable_section(4)
    other = build_model(section, "classification", "models.x").eval()
    update_bottleneck(other)
    ids.add(id_of(other))
    # of other shape, and the same values
    ids.add(id_of(coded(5)))
    assert len(ids) == len(KINDS) + 2


def test_heads_around_one_encoder_have_one_id():
    """One payload for three answers."""
    model = coded(4)
    around = build_model(detector_section(splittable_section(4)), "detection", "models.m").eval()
    bottleneck = find_bottleneck(around)
    update_bottleneck(around)
    assert id_of(around) != id_of(model)
    bottleneck.load_state_dict(find_bottleneck(model).state_dict())
    assert id_of(around) == id_of(model)


def test_an_id_stays_what_it_is():
    """By this project, once: payloads that are kept are found by it."""
    bottleneck = FPBasedResNetBottleneck(3, 2, 4)
    set_tables(bottleneck, {n: torch.zeros(2, dtype=torch.int32) for n in tables(bottleneck)})
    with torch.no_grad():
        for tensor in (*bottleneck.parameters(), *bottleneck.buffers()):
            tensor.copy_((torch.arange(tensor.numel()) % 7).reshape(tensor.shape))
    assert encoder_id(bottleneck).hex() == "2d09d65b111e3d53"


def test_no_id_without_tables_or_amid_an_evaluation():
    model = splittable().eval()
    with pytest.raises(UsageError, match="CDF tables are missing"):
        id_of(model)
    update_bottleneck(model)
    with entropy_coding(model), pytest.raises(UsageError, match="before its evaluation is opened"):
        id_of(model)
    assert len(id_of(model)) == 8
