"""One bottleneck for every rate: densities read at any step, tables, payloads of several levels."""

from __future__ import annotations

import copy

import pytest
import torch
from compressai.entropy_models import EntropyBottleneck
from devices import on_each_device
from sc2bench.models import layer
from students import splittable_section

from ladon.bottlenecks import (
    encoder_id,
    entropy_coding,
    find_bottleneck,
    known_bottleneck,
    update_bottleneck,
    use_own_noise,
)
from ladon.bottlenecks.entropy import CDF_TABLES, set_tables, tables
from ladon.bottlenecks.variable_entropy import VariableRateEntropyBottleneck
from ladon.bottlenecks.variable_rate import StepSizes, VariableRateBottleneck
from ladon.codec import LeveledCoder
from ladon.codec.rates import Rates
from ladon.errors import CheckpointError, ConfigError, UsageError
from ladon.models import build_model, load_into, read_checkpoint, write_checkpoint
from ladon.models.fit import completed

CPU = torch.device("cpu")
LEVELS = 13
C, K = 6, 64


def built(**kwargs):
    torch.manual_seed(5)
    kwargs = {"num_bottleneck_channels": C, "num_target_channels": K, "levels": LEVELS} | kwargs
    section = {"key": "VariableRateBottleneck", "kwargs": kwargs}
    model = build_model(splittable_section(bottleneck=section), "classification", "models.x")
    return model.eval().to(memory_format=torch.channels_last)


def of_one_rate():
    kwargs = {"num_bottleneck_channels": C, "num_target_channels": K}
    section = {"key": "FPBasedResNetBottleneck", "kwargs": kwargs}
    model = build_model(splittable_section(bottleneck=section), "classification", "models.x")
    return model.eval().to(memory_format=torch.channels_last)


@pytest.fixture
def model():
    made = built()
    torch.manual_seed(8)
    with torch.no_grad():
        find_bottleneck(made).decoder.after.output.weight.normal_(std=0.3)
    update_bottleneck(made)
    return made


def density(seed=0):
    torch.manual_seed(seed)
    made = EntropyBottleneck(C)
    with torch.no_grad():
        made.quantiles.copy_(torch.tensor([-7.3, 0.4, 9.1]))
    return VariableRateEntropyBottleneck.like(made, Rates(levels=2)), made


def test_levels_have_the_published_rates():
    rates = Rates()
    assert [rates.level(b) for b in (0.32, 1.28, 5.12, 10.24, 20.48)] == [0, 20, 40, 50, 60]
    assert rates.beta(40) == pytest.approx(5.12)
    assert rates.positions(torch.tensor([0, 30, 60])).tolist() == [-1, 0, 1]
    assert rates.betas(torch.tensor([20, 60])).tolist() == pytest.approx([1.28, 20.48])
    assert rates.level(5.4) == 41  # 10 log2(5.4 / 0.32) = 40.8
    with pytest.raises(UsageError, match=r"β 40: this model has β from 0.32 to 20.48"):
        rates.level(40.0)
    with pytest.raises(UsageError, match=r"β 0: this model"):
        rates.level(0.0)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"low": 2.0, "high": 1.0}, "0 < low < high"),
        ({"low": 0.0}, "0 < low < high"),
        ({"levels": 1}, "1 levels of rate, not 2 to 255"),
        ({"levels": 256}, "256 levels of rate"),
    ],
)
def test_rates_that_are_none(wrong, words):
    with pytest.raises(ValueError, match=words):
        Rates(**wrong)


def test_at_a_step_of_1_it_is_compressais():
    own, theirs = density()
    x, ones = torch.randn(2, C, 5, 4) * 4, torch.ones(2, C, 1, 1)
    expected = theirs.eval()(x)
    for mine, wanted in zip(own.eval()(x, ones), expected, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=0, atol=1e-6)
    own.build(torch.ones(1, C))
    theirs.update()
    for name in ("_quantized_cdf", "_cdf_length", "_offset"):
        assert torch.equal(getattr(own, name), getattr(theirs, name)), name


def test_noise_is_as_wide_as_the_step():
    own, _ = density()
    own.generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, C, 40, 40)
    steps = torch.tensor([0.25, 4.0])[:, None, None, None].expand(2, C, 1, 1)
    noise = own.train()(x, steps)[0] - x
    for image, step in zip(noise, (0.25, 4.0), strict=True):
        assert image.abs().max() <= step / 2 + 1e-6
        assert image.std() == pytest.approx(step / 12**0.5, rel=0.02)


def test_a_symbols_likelihood_is_the_densitys_mass_between_its_edges():
    own, theirs = density()
    step, x = 1.7, torch.randn(1, C, 3, 3) * 5
    rounded, likelihood = own.eval()(x, torch.full((1, C, 1, 1), step))
    medians = theirs._get_medians().reshape(1, -1, 1, 1)
    assert torch.equal(rounded, torch.round((x - medians) / step) * step + medians)
    for channel in range(C):
        values = torch.zeros(C, 1, 9)
        values[channel, 0] = rounded[0, channel].reshape(-1)
        edges = (
            torch.sigmoid(theirs._logits_cumulative(values + e, stop_gradient=True))[channel, 0]
            for e in (step / 2, -step / 2)
        )
        expected = next(edges) - next(edges)
        torch.testing.assert_close(
            likelihood[0, channel].reshape(-1), expected.clamp(min=1e-9), rtol=0, atol=1e-6
        )


def test_tables_hold_the_probabilities_of_their_step():
    own, _ = density()
    steps = torch.tensor([[0.5] * C, [3.0] * C])
    own.build(steps)
    assert own._cdf_length.shape == (2 * C,)
    for level, step in enumerate((0.5, 3.0)):
        row = level * C
        first = int(own._offset[row])
        assert first == -int(torch.ceil(torch.tensor(7.7 / step)))
        length = int(own._cdf_length[row])
        table = own._quantized_cdf[row, :length].diff()[:-1] / 65536
        symbols = torch.arange(len(table)) + first
        values = torch.zeros(1, C, 1, len(table))
        values[0, 0, 0] = symbols * step + 0.4
        _, likelihood = own.eval()(values, torch.full((1, C, 1, 1), step))
        torch.testing.assert_close(table, likelihood[0, 0, 0], rtol=0, atol=len(table) / 65536)
        assert own._quantized_cdf[row, length - 1] == 65536


def test_steps_rise_with_beta_whatever_is_learnt():
    torch.manual_seed(0)
    steps = StepSizes(5, hidden=4)
    at = torch.linspace(-1, 1, 61)
    assert steps(at)[30].tolist() == pytest.approx([1.0] * 5, abs=0.05)
    for _ in range(20):
        with torch.no_grad():
            for parameter in steps.parameters():
                parameter.normal_(std=3)
        assert bool((steps(at).log().diff(dim=0) >= 0).all())


def test_a_new_one_computes_as_the_papers_with_a_step_of_1():
    mine = built()
    torch.manual_seed(5)
    papers = of_one_rate()
    theirs = layer.FPBasedResNetBottleneck
    mine, papers = find_bottleneck(mine), find_bottleneck(papers)
    assert isinstance(mine, theirs)
    common = papers.state_dict()
    assert set(common) < set(mine.state_dict())
    latent = torch.randn(2, C, 9, 9)
    told = torch.cat([latent, torch.zeros(2, 1, 9, 9)], dim=1)
    for name, tensor in common.items():
        mine.state_dict()[name].copy_(tensor)
    torch.testing.assert_close(mine.decoder(told), papers.decoder(latent))


def test_each_group_of_levels_may_have_a_density_of_its_own():
    """Each one computes what a bottleneck of that density alone does, with common medians."""
    _, first = density(0)
    _, second = density(1)
    rates = Rates(levels=4)
    both = VariableRateEntropyBottleneck.like(density(0)[1], rates, priors=2)
    with torch.no_grad():
        for own, other in zip(both.parameters(), second.parameters(), strict=True):
            own[C:] = other
    own = [VariableRateEntropyBottleneck.like(one, rates) for one in (first, second)]
    x, levels = torch.randn(4, C, 5, 3) * 4, torch.tensor([0, 3, 1, 2])
    steps = torch.rand(4, C, 1, 1) + 0.5
    _, found = both.eval()(x, steps, levels=levels)
    for image, group in enumerate([0, 1, 0, 1]):
        one = slice(image, image + 1)
        _, expected = own[group].eval()(x[one], steps[one])
        torch.testing.assert_close(found[one], expected)
    all_steps = torch.rand(4, C) + 0.5
    both.build(all_steps)
    for group in (0, 1):
        own[group].build(all_steps)
        rows = slice(2 * group * C, 2 * (group + 1) * C)
        width = min(both._quantized_cdf.shape[1], own[group]._quantized_cdf.shape[1])
        for name in ("_cdf_length", "_offset"):
            assert torch.equal(getattr(both, name)[rows], getattr(own[group], name)[rows])
        ours, theirs = (m._quantized_cdf[rows, :width] for m in (both, own[group]))
        assert torch.equal(ours, theirs)
    with pytest.raises(ValueError, match="5 densities for 4 levels"):
        VariableRateEntropyBottleneck.like(first, rates, priors=5)


@on_each_device
@torch.inference_mode()
def test_a_latent_is_coded_at_its_levels_as_on_the_cpu(model, device):
    latent = find_bottleneck(model).encoder(torch.randn(3, 3, 48, 64) * 3)
    on_cpu = LeveledCoder(find_bottleneck(model).entropy_bottleneck)
    levels = [0, 12, 5]
    payloads = on_cpu.encode(latent, levels)
    there = LeveledCoder(find_bottleneck(copy.deepcopy(model).to(device)).entropy_bottleneck)
    for moved in (latent, latent.contiguous(memory_format=torch.channels_last)):
        assert there.encode(moved.to(device), levels) == payloads
    decoded = there.decode(payloads, latent.shape[-2:], levels)
    assert decoded.device.type == device
    assert torch.equal(decoded.cpu(), on_cpu.decode(payloads, latent.shape[-2:], levels))
    assert torch.equal(there.quantize(latent.to(device), levels).cpu(), decoded.cpu())


def test_the_decoder_learns_from_rounded_latents():
    """Multiples of the steps around the medians; the gradient is the latent's own."""
    bottleneck = find_bottleneck(built()).train()
    with torch.no_grad():
        bottleneck.entropy_bottleneck.quantiles[:, :, 1] += 0.3
    latent = (torch.randn(4, C, 6, 5) * 4).requires_grad_()
    seen = []
    bottleneck.draw.register_forward_hook(lambda _m, _i, output: seen.append(output))
    told = bottleneck.noisy(latent)
    ((_, positions, _),) = seen
    steps = bottleneck._steps_at(positions)[:, :, None, None]
    symbols = (told[:, :-1] - 0.3) / steps
    torch.testing.assert_close(symbols, symbols.round(), rtol=0, atol=1e-3)
    assert (told[:, :-1] - latent).abs().le(steps / 2 + 1e-4).all()
    told[:, :-1].sum().backward()
    torch.testing.assert_close(latent.grad, torch.ones_like(latent), rtol=0, atol=1e-5)
    assert bottleneck.step_sizes.slope.grad is not None
    noise = find_bottleneck(built(rounds=False)).train().noisy(latent)
    assert ((noise[:, :-1] / 1e-3).frac().abs() > 1e-3).any()


@pytest.mark.parametrize(
    ("part", "missing"),
    [
        ("per_channel", None),
        ("modulated", "decoder.after"),
        ("rounds", None),
        ("priors", None),
        ("draws_rounded", None),
    ],
)
def test_parts_can_be_left_out(part, missing):
    """What an ablation takes away; the rest trains, is coded and decoded as with it."""
    made = built(**{part: {"priors": 3, "modulated": []}.get(part, False)}).train()
    bottleneck = find_bottleneck(made)
    bottleneck.step_sizes.offset.data.normal_()
    images = torch.randn(4, 3, 48, 64)
    assert bottleneck.noisy(bottleneck.encoder(images)).shape[1] == C + 1
    update_bottleneck(made.eval())
    steps = bottleneck.entropy_bottleneck._steps
    assert steps.shape == (LEVELS, C)
    assert bool((steps == steps[:, :1]).all()) == (part == "per_channel")
    assert (missing is None) or not any(missing in name for name in made.state_dict())
    latent = bottleneck.encoder(images)
    rounded = bottleneck.train().quantized(latent, None)
    if part == "draws_rounded":
        assert bool((rounded[:, -1] == rounded[0, -1, 0, 0]).all())
    with entropy_coding(made.eval()), torch.inference_mode():
        coding = bottleneck.coding
        coded = coding.code(coding.analyse(images), [0, 12, 0, 5])
        assert coding.decode(**coded).shape == bottleneck.decoder(rounded).shape


@torch.inference_mode()
def test_images_of_a_batch_have_rates_of_their_own(model):
    bottleneck, images = find_bottleneck(model), torch.randn(4, 3, 48, 64) * 3
    with entropy_coding(model):
        coding = bottleneck.coding
        latent = coding.analyse(images)
        mixed = coding.code(latent, [0, 12, 0, 5])
        features = coding.decode(**mixed)
        for place, level in enumerate([0, 12, 0, 5]):
            alone = coding.code(latent[place : place + 1], [level])
            assert alone["strings"][0] == [mixed["strings"][0][place]]
            assert torch.equal(coding.decode(**alone)[0], features[place])
    sizes = [len(string) for string in mixed["strings"][0]]
    assert sizes[0] > sizes[3] > sizes[1]


@torch.inference_mode()
def test_modes_agree_at_every_level(model):
    bottleneck, images = find_bottleneck(model), torch.randn(2, 3, 48, 64) * 3
    found = {}
    for mode in ("full", "payload", "estimate"):
        with entropy_coding(model, mode) as payloads:
            for level in range(LEVELS):
                with bottleneck.coding.at_level(level):
                    features = model.bottleneck_layer.decode(**bottleneck.encode(images))
                found[mode, level] = features, payloads.pop()[0]
    for level in range(LEVELS):
        full, sizes = found["full", level]
        assert torch.equal(full, found["payload", level][0])
        assert torch.equal(full, found["estimate", level][0])
        assert sizes == found["payload", level][1]
        for real, estimated in zip(sizes, found["estimate", level][1], strict=True):
            assert abs(real - estimated) <= 0.001 * real + 16


@torch.inference_mode()
def test_each_level_has_fewer_bytes(model):
    images = torch.randn(3, 3, 64, 64) * 3
    with entropy_coding(model) as payloads:
        for level in range(LEVELS):
            with find_bottleneck(model).coding.at_level(level):
                model(images)
        sizes = torch.tensor(payloads.pop()[0]).reshape(LEVELS, 3)
    assert bool((sizes.diff(dim=0) <= 0).all())
    assert bool((sizes[0] > 2 * sizes[-1]).all())


@torch.inference_mode()
def test_a_payload_read_at_another_level_is_refused_or_another_latent(model):
    bottleneck, images = find_bottleneck(model), torch.randn(1, 3, 48, 48) * 3
    with entropy_coding(model):
        coded = bottleneck.encode(images)
        right = bottleneck.coding.read(**coded)
        with pytest.raises(UsageError, match="rate level 13: this model has 0 to 12"):
            bottleneck.coding.read(**coded | {"levels": [13]})
        with pytest.raises(UsageError, match="levels of 2 images for 1"):
            bottleneck.coding.read(**coded | {"levels": [1, 1]})
    assert right.shape == (1, C + 1, 11, 11)
    assert set(right[:, -1].flatten().tolist()) == {0.0}


@torch.inference_mode()
def test_a_kind_of_one_rate_takes_no_level():
    section = {"key": "FPBasedResNetBottleneck", "kwargs": {"num_bottleneck_channels": C}}
    model = build_model(splittable_section(bottleneck=section), "classification", "models.x").eval()
    update_bottleneck(model)
    with entropy_coding(model):
        coding = known_bottleneck(model).coding
        with pytest.raises(UsageError, match="FPBasedResNetBottleneck has one rate"):
            coding.encode(torch.randn(1, 3, 32, 32), [3])
        with pytest.raises(UsageError, match="has one rate"), coding.at_level(2):
            pass


def test_training_draws_rates_from_the_runs_generator():
    model = built().train()
    use_own_noise(model, 7, CPU)
    images, seen = torch.randn(8, 3, 32, 32), []
    bottleneck = find_bottleneck(model)
    bottleneck.draw.register_forward_hook(lambda m, i, out: seen.append(out))
    first = model(images)
    torch.rand(3)
    use_own_noise(model, 7, CPU)
    assert torch.equal(first, model(images))
    assert torch.equal(seen[0][0], seen[1][0])
    assert len(set(seen[0][0].tolist())) > 3
    torch.testing.assert_close(seen[0][2], bottleneck.rates.betas(seen[0][0]))


def test_after_the_update_training_rounds_at_the_levels_of_the_tables(model):
    bottleneck, latent = find_bottleneck(model).train(), torch.randn(5, C, 7, 7) * 3
    told = bottleneck.quantized(latent, None)
    levels = ((told[:, -1, 0, 0] + 1) / 2 * (LEVELS - 1)).round().long().tolist()
    with entropy_coding(model):
        coded = bottleneck.coding.code(latent, levels)
        assert torch.equal(bottleneck.coding.read(**coded), told)


def test_tables_travel_with_the_checkpoint(model, tmp_path):
    write_checkpoint(tmp_path / "x.pt", model)
    other = built()
    load_into(other, read_checkpoint(tmp_path / "x.pt", "the test"))
    images = torch.randn(1, 3, 48, 48) * 3
    with torch.inference_mode(), entropy_coding(model), entropy_coding(other):
        assert find_bottleneck(other).encode(images) == find_bottleneck(model).encode(images)
    assert encoder_id(find_bottleneck(other)) == encoder_id(find_bottleneck(model))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda steps: steps[:-1], "steps of 12 levels and 6 channels, the latent has 13 and 6"),
        (lambda steps: steps[:, :-1], "steps of 13 levels and 5 channels, the latent has 13 and 6"),
        (lambda steps: -steps, "a step of a rate level is not a number above 0"),
        (lambda steps: steps * 0, "a step of a rate level is not a number above 0"),
        (lambda steps: steps.reshape(-1), r"steps of shape \(78,\)"),
    ],
)
def test_steps_of_a_checkpoint_that_are_none(model, change, words, tmp_path):
    prior = find_bottleneck(model).entropy_bottleneck
    prior._steps = change(prior._steps.clone())
    write_checkpoint(tmp_path / "x.pt", model)
    with pytest.raises(CheckpointError, match=words):
        load_into(built(), read_checkpoint(tmp_path / "x.pt", "the test"))


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (
            {"beta": {"low": 0.5, "high": 20.48}},
            "learnt β from 0.32 to 20.48 in 13 levels, and",
        ),
        ({"levels": 14}, "and the config says β from 0.32 to 20.48 in 14 levels"),
    ],
)
def test_a_checkpoint_of_other_rates(model, other, words, tmp_path):
    write_checkpoint(tmp_path / "x.pt", model)
    with pytest.raises(CheckpointError, match=words):
        load_into(built(**other), read_checkpoint(tmp_path / "x.pt", "the test"))


def test_other_steps_are_another_encoder(model):
    before = encoder_id(find_bottleneck(model))
    name = "entropy_bottleneck._steps"
    bottleneck = find_bottleneck(model)
    set_tables(bottleneck, {name: tables(bottleneck)[name] * 1.01})
    assert encoder_id(bottleneck) != before


def test_steps_too_fine_for_a_table():
    own, _ = density()
    steps = torch.ones(2, C)
    steps[1, 2] = 1e-6
    with pytest.raises(CheckpointError, match=r"level 1, channel 2: a step of 1e-06 makes"):
        own.build(steps)


def test_it_is_a_kind_of_the_papers():
    assert issubclass(VariableRateBottleneck, layer.FPBasedResNetBottleneck)
    assert layer.LAYER_CLASS_DICT["VariableRateBottleneck"] is VariableRateBottleneck


def test_only_known_places_are_modulated():
    with pytest.raises(ConfigError, match="modulated: nowhere; known: latent, output"):
        built(modulated=["nowhere"])


def test_a_checkpoint_of_one_rate_starts_it(tmp_path, model):
    """Its encoder, decoder and density are taken over; steps, modulation and tables are new."""
    papers = of_one_rate()
    with torch.no_grad():
        for parameter in papers.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.01)
    update_bottleneck(papers)
    write_checkpoint(tmp_path / "one.pt", papers)
    checkpoint = read_checkpoint(tmp_path / "one.pt", "here")
    made = built()
    with pytest.raises(CheckpointError, match=r"decoder\.after"):
        load_into(made, checkpoint)
    load_into(made, completed(made, checkpoint))
    assert not find_bottleneck(made).updated
    for name, tensor in papers.state_dict().items():
        if name.rsplit(".", 1)[-1] not in CDF_TABLES:
            assert torch.equal(made.state_dict()[name], tensor), name
    mine, theirs = find_bottleneck(made), find_bottleneck(papers)
    with torch.inference_mode():
        latent = theirs.encoder(torch.randn(1, 3, 48, 64) * 3)
        wanted = theirs.quantized(latent, None)
        found = mine.quantized(latent, None)[:, :-1]
        # the first step in the middle is 1 but for a hundredth
        assert (found - wanted).norm() < 0.05 * wanted.norm()
        assert torch.equal(
            mine.decoder(torch.cat([wanted, wanted[:, :1] * 0], 1)), theirs.decoder(wanted)
        )
    assert completed(papers, checkpoint) is checkpoint
    write_checkpoint(tmp_path / "rates.pt", model)
    own = read_checkpoint(tmp_path / "rates.pt", "here")
    assert completed(made, own) is own
