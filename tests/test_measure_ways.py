"""The ways on tiny models: what runs how often, what is sent, what a profile counts."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from split_models import CLASS_NAMES, pixels, write_models
from tiny import FAMILIES
from torch import nn

from ladon.commands import main
from ladon.errors import UsageError
from ladon.measure.clock import Clock
from ladon.measure.codecs import PictureCodec
from ladon.measure.energy import find_device
from ladon.measure.links import Link
from ladon.measure.model_profile import count_macs, num_parameters
from ladon.measure.models import Models, Place, Sources
from ladon.measure.results import Measured
from ladon.measure.split_run import find_images, loaders, over_real_links
from ladon.measure.timing import Plan, identities, run_once, time_ways
from ladon.measure.ways import LADON, ON_DEVICE, PICTURE, SINGLE, Split, picture_of
from ladon.models.ladon import HEADS
from ladon.split.answers import Answers

IMAGE = Image.fromarray(pixels(96, 96))


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    """Configs by head, and 'ladon'."""
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def sources(configs):
    return Sources(str(configs["ladon"]), tuple(str(configs[head]) for head in HEADS))


@pytest.fixture(scope="module")
def models(sources):
    with Models(sources) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def untrained_rates(tmp_path_factory):
    """The config of a three-headed model for every rate."""
    return write_models(tmp_path_factory.mktemp("rates"), every_rate=True)["ladon"]


def by_kind(models, kind):
    codecs = [PictureCodec("JPEG", 50)]
    return next(way for way in models.ways(codecs) if way.identity.kind == kind)


def calls(way, image) -> tuple[Counter, list[int]]:
    """How often the parts of a way's models run for an image, and the bytes of each message."""
    counted: Counter = Counter()
    with ExitStack() as hooks:
        for model in way.models:
            bottleneck = model.bottleneck
            watched = {"encoder": bottleneck.analysis, "decoder": bottleneck.synthesis}
            parts = dict(model.network.named_modules())
            for stage in ("layer2", "layer3", "layer4"):
                found = [m for name, m in parts.items() if name.split(".")[-1] == stage]
                watched.update({stage: found[0]} if found else {})
            for name, module in watched.items():

                def count(*_args, name=name):
                    counted[name] += 1

                hooks.callback(module.register_forward_hook(count).remove)
        messages = way.device(image, Clock())
        answers = way.server(messages, Clock())
    assert set(answers) == set(HEADS)
    return counted, [len(message) for message in messages]


def test_three_heads_take_one_encode_one_payload_one_decode_and_one_body(models):
    ladon, sizes = calls(by_kind(models, LADON), IMAGE)
    assert ladon == {"encoder": 1, "decoder": 1, "layer2": 1, "layer3": 1, "layer4": 1}
    single, sizes_of_three = calls(by_kind(models, SINGLE), IMAGE)
    # the segmenter's body ends at layer3
    assert single == {"encoder": 3, "decoder": 3, "layer2": 3, "layer3": 3, "layer4": 2}
    assert (len(sizes), len(sizes_of_three)) == (1, 3)
    assert sum(sizes) <= 0.4 * sum(sizes_of_three)


def test_both_splits_answer_alike(models):
    found = {}
    for kind in (LADON, SINGLE):
        way = by_kind(models, kind)
        found[kind] = way.server(way.device(IMAGE, Clock()), Clock())
    for head in HEADS:
        assert isinstance(found[LADON][head], Answers)
    labels = [found[kind]["classification"].classes[0].label for kind in (LADON, SINGLE)]
    assert labels[0] == labels[1]


def test_every_way_is_timed_on_every_image(models):
    ways = models.ways([PictureCodec("JPEG", 50), PictureCodec("WebP", 50)])
    names = [way.identity.name for way in ways]
    assert names == ["on device", "JPEG q50", "WebP q50", "single-task split", "Ladon"]
    samples = time_ways(ways, [lambda: IMAGE] * 2, Plan(warm_up=0))
    assert Counter((s.way, s.image) for s in samples) == Counter(
        (name, image) for name in names for image in (0, 1)
    )
    stages = {s.way: (set(s.device), set(s.server)) for s in samples}
    assert stages["on device"] == ({"fit", "light models"}, set())
    assert stages["JPEG q50"] == ({"fit", "coding"}, {"decoding", "unsplit"})
    assert stages["Ladon"] == (
        {"fit", "analysis", "coding"},
        {"decoding", "synthesis", "body", *HEADS},
    )
    assert stages["single-task split"] == stages["Ladon"]


def test_threads_are_each_halfs_own_and_then_as_before(models):
    seen = []

    class Way(Split):
        def device(self, image, clock):
            seen.append(torch.get_num_threads())
            return [b"x"]

        def server(self, messages, clock):
            seen.append(torch.get_num_threads())
            return {}

    before = torch.get_num_threads()
    way = Way(by_kind(models, LADON).identity, [])
    sample = run_once(way, IMAGE, 7, Plan(device_threads=2, server_threads=3))
    assert seen == [2, 3]
    assert torch.get_num_threads() == before
    assert (sample.image, sample.num_bytes) == (7, (1,))


def test_an_unsplit_model_is_the_split_one_less_its_coding(models):
    """Of a config without a teacher: the latent is quantised, so that scores are the same."""
    model = models.single[None]["classification"]
    values = torch.from_numpy(replace(model.fitting, mean=None, std=None)(IMAGE).input)
    logits = models.unsplit["classification"](values)
    best = logits.float().softmax(1).topk(5)
    found = model.answer(model.encode(IMAGE)).classes
    assert [one.label for one in found] == best.indices[0].tolist()
    assert [one.score for one in found] == pytest.approx(best.values[0].tolist(), abs=1e-4)
    assert models.unsplit["detection"].name == "faster_rcnn_model with its bottleneck"


@pytest.mark.parametrize(("name", "quality"), [("JPEG", 90), ("WebP", 90), ("PNG", None)])
def test_codecs_give_the_picture_back(name, quality):
    smooth = np.asarray(Image.fromarray(pixels(6, 6)).resize((64, 48), Image.Resampling.BICUBIC))
    codec = PictureCodec(name, quality)
    decoded = codec.decode(codec.encode(smooth))
    limit = 0 if quality is None else 12
    assert np.abs(decoded.astype(int) - smooth).mean() <= limit
    assert decoded.shape == (48, 64, 3)


@pytest.mark.parametrize(("name", "quality"), [("JPEG", 0), ("JPEG", 96), ("WebP", 101)])
def test_wrong_qualities_are_refused(name, quality):
    with pytest.raises(UsageError, match=f"--{name.lower()} {quality}: a quality is 1 to "):
        PictureCodec(name, quality)


def test_a_picture_is_scaled_and_not_padded(models):
    picture = picture_of(Image.fromarray(pixels(50, 96)), models.first.fitting)
    assert picture.shape == (50, 96, 3)  # the detector's own transform: its longest side is 96
    assert np.array_equal(picture, pixels(50, 96))


def test_a_real_link_takes_what_its_rate_says(models):
    way = by_kind(models, LADON)
    plan = Plan(warm_up=0)
    sample = run_once(way, IMAGE, 0, plan)
    link = Link("mine", 8 * sum(sample.num_bytes) / 0.05, 0.0)  # 50 ms for this payload
    measured = Measured(identities([way]), [sample], [link], 1.0, find_device("raspberry_pi_4"))
    (row,) = over_real_links("socket", [way], [lambda: IMAGE], measured, plan)
    assert (row["link"], row["way"], row["n"]) == ("mine", "Ladon", 1)
    assert row["sum_s"]["median"] > 0.05
    # no faster than the link allows; how much slower is the machine's affair
    assert row["measured_s"]["median"] > 0.05


def test_multiply_adds_and_parameters_are_known_ones():
    conv, linear = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8 * 16 * 16, 10)
    network = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), linear)
    image = torch.zeros(1, 3, 16, 16)
    found, total = count_macs({"conv": [conv], "linear": [linear]}, lambda: network(image))
    assert found == {"conv": 8 * 3 * 9 * 16 * 16, "linear": 8 * 16 * 16 * 10}
    assert total == sum(found.values())
    assert num_parameters([conv, conv]) == 8 * 3 * 9 + 8
    assert not conv._forward_hooks


def test_a_profile_tells_encoder_from_heads(configs, capsys):
    assert main(["profile", str(configs["ladon"]), "--repeats", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    parts = {part["name"]: part for part in found["parts"]}
    assert list(parts) == ["encoder", "entropy model", "decoder", "body", *HEADS]
    # SPEC: Conv5x5/2(3→4C) GDN Conv5x5/2(4C→2C) GDN Conv2x2(2C→C), no biases; here C = 4
    convolutions = 3 * 16 * 25 + 16 * 8 * 25 + 8 * 4 * 4
    gdn = 16 + 16 * 16 + 8 + 8 * 8
    assert parts["encoder"]["parameters"] == convolutions + gdn
    at = {"first": 48 * 48, "second": 24 * 24, "last": 23 * 23}
    macs = (3 * 16 * 25 + 16 * 16) * at["first"] + (16 * 8 * 25 + 8 * 8) * at["second"]
    assert parts["encoder"]["macs"] == macs + 8 * 4 * 4 * at["last"]
    assert found["size"] == [96, 96]
    assert all(part["seconds"]["median"] > 0 for part in parts.values())
    assert parts["classification"]["macs"] == 512 * 10


def test_a_profile_of_one_task_is_a_table(configs, capsys):
    arguments = ["--repeats", "1", "--size", "64", "64", "--threads", "1"]
    assert main(["profile", str(configs["segmentation"]), *arguments]) == 0
    shown = capsys.readouterr().out
    assert "multiply-adds [M]" in shown
    assert "segmentation" in shown
    assert "head" not in shown


def test_wrong_sets_of_models_are_refused(configs):
    ladon = str(configs["ladon"])
    one, two = str(configs["classification"]), str(configs["detection"])
    with pytest.raises(UsageError, match=r"--config .*: a model for detection alone"):
        Models(Sources(two))
    with pytest.raises(UsageError, match=r"--single .*: a second model for detection"):
        Models(Sources(ladon, (one, two, two)))


def test_betas_go_into_names_or_into_the_config():
    sources = Sources("a-beta{beta}.yaml", ("b.yaml",), ("0.32", "5.12"))
    assert sources.places(sources.three_headed) == [
        Place("a-beta0.32.yaml"),
        Place("a-beta5.12.yaml"),
    ]
    fixed = str(FAMILIES / "ladon" / "_base_" / "classification.yaml")
    assert sources.places(fixed) == [Place(fixed, ("beta=0.32",)), Place(fixed, ("beta=5.12",))]
    every = str(FAMILIES / "ladon" / "splittable_resnet18-vr_from_resnet18.yaml")
    assert sources.places(every) == [Place(every, rates=(0.32, 5.12))]
    with pytest.raises(UsageError, match="--betas many: no number"):
        Sources(every, betas=("many",)).places(every)


def test_a_model_for_every_rate_stands_at_each(tmp_path, untrained_rates):
    betas = ("0.32", "5.12", "20.48")
    with Models(Sources(str(untrained_rates), betas=betas), unsplit=False) as models:
        ways = [way for way in models.ways([]) if way.identity.kind == LADON]
        assert [way.identity.setting for way in ways] == [0.32, 5.12, 20.48]
        assert len({id(way.models[0]) for way in ways}) == 1
        held = models.on_server()[LADON]
        assert held["models"] == 1
        network = models.first.network
        assert held["bytes"] >= 4 * sum(p.numel() for p in network.parameters())
        sizes = [len(way.device(IMAGE, Clock())[0]) for way in ways]
        assert sizes[0] > sizes[1] > sizes[2]
        answers = ways[1].server(ways[1].device(IMAGE, Clock()), Clock())
        assert set(answers) == set(HEADS)
    with pytest.raises(UsageError, match="β 40"):
        Models(Sources(str(untrained_rates), betas=("40",)), unsplit=False)


def test_images_are_pictures_not_payloads(tmp_path, sources):
    IMAGE.save(tmp_path / "a.png")
    (tmp_path / "b.ladon").write_bytes(b"")
    (found,) = find_images([str(tmp_path)], sources, 5)
    assert found.name == "a.png"
    assert loaders([found])[0]().size == (96, 96)
    with pytest.raises(UsageError, match="no image is there, only payloads"):
        find_images([str(tmp_path / "b.ladon")], sources, 5)


def test_the_class_names_are_the_checkpoints(models):
    assert models.class_counts == {head: len(names) for head, names in CLASS_NAMES.items()}
    assert by_kind(models, ON_DEVICE).identity.setting is None
    assert by_kind(models, PICTURE).identity.curve == "JPEG"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--accuracy"], "--accuracy: the tasks' data are those of --single"),
        (["--device-factor", "0"], "--device-factor must be above 0"),
        (["--single", "a.yaml"], "--single: expected 3 arguments"),
    ],
)
def test_wrong_flags_are_wrong_usage(flags, said, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["measure-split", "--config", "x.yaml", *flags])
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--links", "5G"], "error: --links 5G: none of LoRa, 3G, LTE, Wi-Fi"),
        (["--power", "toaster"], "error: --power toaster: none of raspberry_pi_4"),
        (["--jpeg", "96"], "error: --jpeg 96: a quality is 1 to 95 here"),
    ],
)
def test_wrong_values_are_told_before_anything_is_loaded(flags, said, capsys):
    assert main(["measure-split", "--config", "nowhere.yaml", *flags]) == 2
    assert capsys.readouterr().err.startswith(said)
