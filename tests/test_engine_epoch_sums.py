"""What an epoch's record is averaged from: terms, auxiliary loss, bits per pixel, images."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from fake_cuda import HostWaitsError, NoWaiting, fake_tensors
from stages import BETA, CPU, batches, make_models, train_config
from torch import nn

from ladon.bottlenecks import auxiliary_loss, update_bottleneck
from ladon.engine.epoch_sums import EpochMeans, EpochMeter, EpochSums
from ladon.engine.resume import Progress
from ladon.engine.stage import Stage, StudentLoss


def gathering(*others):
    """A world of other processes that have summed this."""
    return SimpleNamespace(gather=lambda own: [own, *others], size=1 + len(others), rank=0)


def epoch(name: str, updated: bool = False) -> tuple[Progress, list[float], list[float]]:
    """Three steps of a stage; its sums, losses and auxiliary losses."""
    teacher, student = make_models()
    if updated:
        update_bottleneck(student)
    stage = Stage(train_config()[name], student, teacher, 3, CPU)
    stage.begin_epoch()
    meter, progress = EpochMeter(), Progress()
    meter.begin(progress, CPU.device)
    losses, auxiliary = [], []
    with meter.watching(student):
        for images, targets, supp in batches():
            io = stage.teacher_forward(images, targets, supp)
            loss = stage.student_loss(images, targets, supp, io)
            aux = auxiliary_loss(student)
            auxiliary += [] if aux is None else [float(aux.detach())]
            stage.step(loss)
            meter.add(images, stage.loss.weighted_terms(), stage.auxiliary)
            losses.append(float(loss.detach()))
            progress.step += 1
        student.eval()(images)  # a validation between epochs is no rate of the training
    progress.loss_sum, progress.sums = sum(losses), meter.read()
    stage.close()
    assert not any(module._forward_hooks for module in student.bottleneck_layer.modules())
    return progress, losses, auxiliary


def test_terms_add_up_to_the_loss_and_bits_are_those_of_the_rate_term():
    progress, losses, auxiliary = epoch("stage1")
    means = EpochMeans.of(progress, CPU)
    assert means.loss == sum(losses) / 3
    assert list(means.terms) == ["layer1", "layer2", "layer3", "layer4", "bpp"]
    assert sum(means.terms.values()) == pytest.approx(means.loss, rel=1e-6)
    assert means.auxiliary == pytest.approx(sum(auxiliary) / 3, rel=1e-6)
    # the config's rate term is BETA times the bits of a batch of two pictures of 32x32 pixels
    assert means.bits_per_pixel == pytest.approx(means.terms["bpp"] / BETA / (2 * 32 * 32))
    assert means.images == 6
    assert means.record(2.0)["images_per_s"] == 3.0


def test_where_no_rate_is_learnt_there_is_none():
    progress, _, _ = epoch("stage2", updated=True)
    record = EpochMeans.of(progress, CPU).record(1.0)
    assert set(record["terms"]) == {"kd"}
    assert not {"bpp", "aux_loss"} & set(record)


def test_a_models_own_losses_are_weighted_as_they_are_summed():
    """Of a segmenter the 'losses' are its outputs, of which nothing is summed."""
    own = {"box": torch.tensor([3.0]), "class": torch.tensor(2.0), "out": torch.ones(2, 2)}

    def weighted(factor):
        loss = SimpleNamespace(criterion=SimpleNamespace(model_loss_factor=factor))
        return {n: float(v) for n, v in StudentLoss._weighted(loss, own).items()}

    assert weighted(0.5) == {"box": 1.5, "class": 1.0}
    assert weighted({"box": 2.0, "class": 0}) == {"box": 6.0}
    assert weighted(None) == weighted(0) == {}


def test_sums_go_on_to_the_bit():
    """A run that is resumed within an epoch writes what an uninterrupted one writes."""
    values = torch.rand(2, 40, generator=torch.Generator().manual_seed(0))
    whole, before = EpochSums({}, CPU.device), EpochSums({}, CPU.device)
    for a, b in values.T:
        whole.add({"a": a, "b": b})
    for a, b in values.T[:17]:
        before.add({"a": a, "b": b})
    before.count("images", 2)
    after = EpochSums(before.read(), CPU.device)
    for a, b in values.T[17:]:
        after.add({"a": a, "b": b})
    assert after.read() == whole.read() | {"images": 2}


def test_a_term_that_comes_and_goes_is_summed():
    sums = EpochSums({"a": 1.0, "gone": 5.0}, CPU.device)
    sums.add({"a": torch.tensor(2.0)})
    sums.add({"a": torch.tensor(3.0), "b": torch.tensor([4.0])})
    sums.add({})
    assert sums.read() == {"a": 6.0, "b": 4.0, "gone": 5.0}


def test_nothing_waits_for_a_gpu_in_a_step():
    """Until the sums are read: that a fake device notices it is shown by the last lines."""
    device, meter, module = torch.device("cuda"), EpochMeter(), nn.Identity()
    with fake_tensors():
        term = torch.ones((), device=device)
        likelihoods = torch.full((2, 4, 8, 8), 0.5, device=device)
        with NoWaiting():
            meter.begin(Progress(), device)
            for _ in range(2):
                meter._look(module, (), (likelihoods, likelihoods))
                meter.add(torch.ones(2, 3, 32, 32, device=device), {"a": term}, term)
        with pytest.raises(HostWaitsError), NoWaiting():
            meter.read()


def test_all_processes_are_averaged():
    progress = Progress(step=2, loss_sum=4.0)
    progress.sums = {"terms.a": 2.0, "images": 4, "bits": 10.0, "pixels": 5}
    other = (8.0, {"terms.a": 6.0, "images": 6, "bits": 20.0, "pixels": 15})
    means = EpochMeans.of(progress, gathering(other))
    assert (means.loss, means.terms, means.images) == (3.0, {"a": 2.0}, 10)
    assert means.bits_per_pixel == 1.5


def test_another_number_of_processes_keeps_the_means():
    states = [
        {"loss_sum": 4.0, "sums": {"terms.a": 2.0, "images": 4, "bits": 10.0, "pixels": 5}},
        {"loss_sum": 8.0, "sums": {"terms.a": 6.0, "images": 6, "bits": 20.0, "pixels": 15}},
    ]
    alone = Progress(step=2)
    alone.bring_sums(states, SimpleNamespace(size=1, rank=0))
    means = EpochMeans.of(alone, CPU)
    assert (means.loss, means.terms, means.images, means.bits_per_pixel) == (
        3.0,
        {"a": 2.0},
        10,
        1.5,
    )
    same = Progress(step=2)
    same.bring_sums(states, SimpleNamespace(size=2, rank=1))
    assert (same.loss_sum, same.sums) == (8.0, states[1]["sums"])
