"""Hyperpriors: CompressAI's payloads to the bit, one per image, whatever comes in."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hyperpriors import KINDS, WIDTHS, student
from sc2bench.models import layer

from ladon.benchmark.published import as_published
from ladon.bottlenecks import (
    auxiliary_loss,
    directly,
    entropy_coding,
    find_bottleneck,
    is_updated,
    published_size,
    use_own_noise,
)
from ladon.bottlenecks.encoder import encode_latent, pinned_arithmetic
from ladon.choices import MODES
from ladon.errors import CheckpointError, PayloadError
from ladon.models import load_into, read_checkpoint, write_checkpoint
from ladon.models.inference import inference
from ladon.models.precision import float32_where_it_matters, forward_only

CPU = torch.device("cpu")
IMAGES = torch.randn(3, 3, 64, 96, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", KINDS)
def test_names_and_first_weights_are_sc2benchs(kind):
    kwargs = {**WIDTHS, "num_target_channels": 64}
    torch.manual_seed(9)
    theirs = getattr(layer, kind)(**kwargs)
    torch.manual_seed(9)
    ours = layer.LAYER_CLASS_DICT[kind](**kwargs)
    assert type(ours) is not type(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for mine, other in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("spread", [1.0, 40.0, 40_000.0])
@torch.inference_mode()
def test_payloads_are_compressais_to_the_bit(kind, batch, spread):
    """The widest leaves all tables: escapes; the narrowest is nearly all zeros."""
    model = student(kind, updated=True, spread=spread)
    ours, theirs = find_bottleneck(model), find_bottleneck(as_published(model))
    assert type(theirs) is getattr(layer, kind)
    with entropy_coding(model) as payloads:
        coded = ours.encode(IMAGES[:batch])
        features = ours.decode(**coded)
        by_part, (nbytes, kib) = payloads.by_part, payloads.pop()
    y_strings, z_strings = coded["strings"]
    for number in range(batch):
        # one image in one form is how sender and receiver compute here
        image = IMAGES[number : number + 1].contiguous(memory_format=torch.channels_last)
        with pinned_arithmetic():
            expected = theirs.encode(image)
            decoded = theirs.decode(**expected)
        assert expected["shape"] == coded["shape"] == (4, 6)
        strings = [y_strings[number], z_strings[number]]
        assert expected["strings"] == [[string] for string in strings]
        assert torch.equal(features[number], decoded[0])
        assert by_part[number] == {"latent": len(strings[0]), "hyper latent": len(strings[1])}
        assert nbytes[number] == sum(map(len, strings))
        assert kib[number] == published_size(strings, expected["shape"])
    widest = -int(ours.gaussian_conditional._offset.min())
    assert (spread == 40_000) == bool(ours.g_a(IMAGES[:batch]).abs().max() > 2 * widest)


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_modes_agree_and_sizes_are_estimated(kind):
    model, found = student(kind, updated=True), {}
    for mode in MODES:
        with entropy_coding(model, mode) as payloads:
            found[mode] = model(IMAGES), payloads.by_part, payloads.pop()
    outputs, parts, sizes = found["full"]
    assert torch.equal(found["encode"][0], outputs)
    assert torch.equal(found["estimate"][0], outputs)
    assert found["encode"][1:] == (parts, sizes)
    for estimated, real in zip(found["estimate"][1], parts, strict=True):
        for name in ("latent", "hyper latent"):
            assert abs(estimated[name] - real[name]) <= 0.001 * real[name] + 16


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_but_the_image_changes_a_payload(kind):
    """Neither batch, precision or folding, nor threads, nor whether an evaluation is open."""
    model = student(kind, updated=True)
    with torch.inference_mode():
        with entropy_coding(model):
            expected = find_bottleneck(model).encode(IMAGES)["strings"]
            single = [find_bottleneck(model).encode(image[None])["strings"] for image in IMAGES]
        assert [[one[part][0] for one in single] for part in (0, 1)] == expected
        assert find_bottleneck(model).encode(IMAGES)["strings"] == expected
    sizes = [[len(s) for s in strings] for strings in expected]

    def passing(image):
        with forward_only(CPU, "bf16"):
            model(image[None])
        parts = payloads.by_part[0]
        payloads.pop()
        return list(parts.values())

    with inference(model, precision="bf16") as payloads, ThreadPoolExecutor(3) as pool:
        found = list(pool.map(passing, [*IMAGES, *IMAGES]))
    assert found == [list(pair) for pair in zip(*sizes, strict=True)] * 2
    assert "_coding" not in {k for k, v in vars(find_bottleneck(model)).items() if v is not None}


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_damaged_payloads_are_refused(kind):
    bottleneck = find_bottleneck(student(kind, updated=True))
    coded = bottleneck.encode(IMAGES)
    (y, z), shape = coded["strings"], coded["shape"]
    for strings, expected in (
        ([y], "^payloads of 3 images: as many"),
        ([], "^payloads of none images: as many"),
        ([y, z, z], "^payloads of 3 and 3 and 3 images: as many"),
        ([y[:2], z], "^payloads of 2 and 3 images: as many"),
        ([[y[0], y[1], y[2][:-4]], z], "is damaged: it ends too early"),
        ([y, [b""] * 3], "payload of 0 bytes is too short for a latent of 4x6"),
    ):
        with pytest.raises(PayloadError, match=expected):
            bottleneck.decode(strings, shape)
    with pytest.raises(PayloadError, match="too short for a latent of 4000x4000"):
        bottleneck.decode([y, z], (4000, 4000))
    with pytest.raises(PayloadError, match="payload of"):
        bottleneck.decode([z, y], shape)


@pytest.mark.parametrize("kind", KINDS)
def test_training_draws_its_noise_from_the_runs_generator(kind):
    """Both latents' noise; what CompressAI makes of the same draws is the same to the bit."""
    model = student(kind).train()
    bottleneck, theirs = find_bottleneck(model), find_bottleneck(as_published(model))
    generator = use_own_noise(model, 5, CPU)
    before = torch.random.get_rng_state()
    features = bottleneck(IMAGES)
    assert torch.equal(torch.random.get_rng_state(), before)
    with torch.random.fork_rng():
        torch.random.set_rng_state(torch.Generator().manual_seed(5).get_state())
        expected = theirs(IMAGES)
        assert torch.equal(torch.random.get_rng_state(), generator.get_state())
    assert torch.equal(features, expected)
    features.square().sum().backward()
    assert bottleneck.g_a[0].weight.grad is not None


@pytest.mark.parametrize("kind", KINDS)
def test_after_update_the_latent_is_rounded_as_it_is_coded(kind):
    """sc2bench rounds y around z's medians: of another number of channels, or wrongly."""
    model = student(kind, updated=True).train()
    bottleneck = find_bottleneck(model)
    latent = bottleneck.g_a(IMAGES)
    if kind == "SHPBasedResNetBottleneck":
        with pytest.raises(RuntimeError, match="must match"):
            find_bottleneck(as_published(model))(IMAGES)
        expected = torch.round(latent)
    else:
        z = bottleneck.h_a(latent)
        medians = bottleneck.entropy_bottleneck.quantiles[:, :, 1:2].reshape(1, -1, 1, 1)
        means = bottleneck.h_s(torch.round(z - medians) + medians).chunk(2, 1)[1]
        expected = torch.round(latent - means) + means
    found = bottleneck.quantized(latent, directly)
    assert torch.equal(found, expected)
    features = bottleneck(IMAGES)
    torch.testing.assert_close(features, bottleneck.g_s(expected))
    features.sum().backward()
    assert bottleneck.g_a[0].weight.grad is None
    assert bottleneck.g_s[0].weight.grad is not None


@pytest.mark.parametrize("kind", KINDS)
def test_before_update_an_evaluation_decodes_what_is_rounded(kind):
    model = student(kind)
    with torch.inference_mode():
        expected = model(IMAGES)
        with inference(model) as payloads:
            found = model(IMAGES)
            assert payloads.pop() == ([], [])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_that_do_not_fit_are_refused_with_those_that_do(kind):
    bottleneck = find_bottleneck(student(kind)).train()
    bottleneck.update()
    said = (
        "a latent of 19x24 for which h_s gives scales of 19x23: "
        "this hyperprior takes images of width 93 to 96 or 109 to 112 pixels"
    )
    with torch.no_grad(), pytest.raises(ValueError, match=said):
        bottleneck.eval()(torch.zeros(1, 3, 80, 97))
    for width in (93, 96, 109, 112):
        with torch.no_grad():
            bottleneck(torch.zeros(1, 3, 80, width))


@pytest.mark.parametrize("kind", KINDS)
def test_what_payloads_depend_on_computes_in_float32(kind):
    model = student(kind).train()
    bottleneck, seen = find_bottleneck(model), []
    for module in (bottleneck.g_a, bottleneck.h_a, bottleneck.h_s):
        module.register_forward_hook(lambda m, i, output: seen.append(output.dtype))
    for module in (bottleneck.entropy_bottleneck, bottleneck.gaussian_conditional):
        module.register_forward_hook(lambda m, i, output: seen.extend(o.dtype for o in output))
    with float32_where_it_matters(model), torch.autocast("cpu", torch.bfloat16):
        features = bottleneck(IMAGES)
    assert seen == [torch.float32] * 7
    assert features.dtype == torch.bfloat16


def test_quantiles_learn_until_there_are_tables():
    model = student(KINDS[0])
    coder = find_bottleneck(model).entropy_bottleneck
    assert torch.equal(auxiliary_loss(model), coder.loss())
    coder.quantiles.requires_grad_(False)
    assert auxiliary_loss(model) is None
    assert auxiliary_loss(student(KINDS[1], updated=True)) is None


def test_a_scale_table_of_ones_own_is_kept():
    bottleneck = find_bottleneck(student(KINDS[0]))
    assert bottleneck.update([0.5, 1.0, 2.0], force=True)
    assert bottleneck.gaussian_conditional.scale_table.tolist() == [0.5, 1.0, 2.0]
    assert not bottleneck.update()
    assert bottleneck.update(force=True)
    assert len(bottleneck.gaussian_conditional.scale_table) == 64


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("saved", "held"), [(True, False), (True, True), (False, True)])
def test_checkpoints_with_and_without_tables_load(kind, saved, held, tmp_path):
    """With tables it failed: scale_table (64,) instead of (0,)."""
    source, target = student(kind, updated=saved), student(kind, updated=held, spread=2.0)
    path = tmp_path / "s.pt"
    write_checkpoint(path, source, best_value=1.0)
    load_into(target, read_checkpoint(path, "the test"))
    assert is_updated(target) is saved
    for name, tensor in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], tensor), name
    with torch.inference_mode(), inference(source) as theirs, inference(target) as ours:
        assert torch.equal(source(IMAGES), target(IMAGES))
        assert ours.pop() == theirs.pop()


TABLES = "bottleneck_layer.gaussian_conditional."


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("scale_table", torch.arange(63.0) + 1, "_quantized_cdf is for 64 scales, scale_table has"),
        ("scale_table", torch.arange(64.0), "scale_table holds 0 at 0"),
        ("scale_table", torch.full((64,), math.nan), "scale_table holds nan at 0"),
        ("scale_table", torch.arange(64).int(), "of torch.int32, not"),
        ("scale_table", torch.tensor(1.0), r"scale_table of shape \(\)"),
        ("scale_table", torch.empty(0), r"missing \(scale_table\)"),
        ("_cdf_length", torch.full((64,), 10**6), "CDF table of scale 0 is not a cumulative"),
        ("_offset", torch.full((64,), -(2**40)), "CDF table of scale 0 begins at"),
        ("_quantized_cdf", torch.zeros(64, 9, dtype=torch.int32), "scale 0 is not a cumulative"),
        ("_quantized_cdf", torch.zeros(64, dtype=torch.int32), "of odd shape"),
        ("scale_bound", torch.zeros(2), "1 tensors of another shape"),
    ],
)
def test_a_hostile_checkpoint_is_refused_and_the_model_left_alone(name, value, said, tmp_path):
    source, target = student(KINDS[1], updated=True), student(KINDS[1], spread=2.0)
    state = source.state_dict()
    state[TABLES + name] = value
    path = tmp_path / "bad.pt"
    torch.save({"model": state}, path)
    before = {n: t.clone() for n, t in target.state_dict().items()}
    with pytest.raises(CheckpointError, match=said) as error:
        load_into(target, read_checkpoint(path, "the test"))
    assert str(path) in str(error.value)
    after = target.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[n], tensor) for n, tensor in before.items())
    assert not is_updated(target)


@torch.inference_mode()
def test_hyper_transforms_run_one_image_at_a_time():
    """As `encode_latent` does: rounding differs with the batch."""
    bottleneck = find_bottleneck(student(KINDS[0], updated=True))
    sizes = []
    for module in bottleneck.transforms:
        module.register_forward_pre_hook(lambda m, inputs: sizes.append(len(inputs[0])))
    coded = bottleneck.encode(IMAGES)
    bottleneck.decode(**coded)
    assert sizes == [1] * 12
    assert encode_latent(bottleneck.g_a, IMAGES).shape == (3, 6, 15, 23)
