"""One stage: bit-equal to torchdistill's boxes, the teacher still, gradients synchronised."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from stages import CPU, Pictures, batches, make_models, train_config
from torch import nn
from torchdistill.core.distillation import MultiStagesDistillationBox

from ladon.engine.plan import Plan, StagePlan
from ladon.engine.stage import Stage
from ladon.errors import ConfigError
from ladon.models import find_bottleneck, update_bottleneck, use_own_noise


def run_stages(student, teacher, config):
    epoch = 0
    for name in ("stage1", "stage2"):
        section = config[name]
        stage = Stage(section, student, teacher, 3, CPU)
        for _ in range(section["num_epochs"]):
            if epoch == 2:
                update_bottleneck(student)
            stage.begin_epoch()
            for images, targets, supp in batches():
                io = stage.teacher_forward(images, targets, supp)
                stage.step(stage.student_loss(images, targets, supp, io))
            stage.end_epoch(None)
            epoch += 1
        stage.close()


def run_box(student, teacher, config):
    """The published loop around torchdistill's box, but with the teacher in eval mode."""
    box = MultiStagesDistillationBox(
        teacher, student, {"train": Pictures()}, config, CPU.device, None, False, 1
    )
    bottleneck = find_bottleneck(student)
    for epoch in range(box.num_epochs):
        box.pre_epoch_process(epoch=epoch)
        teacher.eval()
        box.teacher_model.eval()
        if epoch == 2:
            student.update()
        for images, targets, supp in box.train_data_loader:
            loss = box.forward_process(images, targets=targets, supp_dict=supp)
            if not bottleneck.updated:
                bottleneck.aux_loss().backward()
            box.post_forward_process(loss=loss)
        box.post_epoch_process()


def test_two_stages_are_bit_equal_to_torchdistills_box():
    results = []
    for run in (run_stages, run_box):
        teacher, student = make_models()
        use_own_noise(student, 7, CPU.device)
        before = copy.deepcopy(student.state_dict())
        torch.manual_seed(3)
        run(student, teacher, train_config())
        results.append((student.state_dict(), teacher.state_dict(), before))
    (ours, our_teacher, before), (boxs, box_teacher, _) = results
    assert ours.keys() == boxs.keys()
    for name in ours:
        assert torch.equal(ours[name], boxs[name]), name
    for name in our_teacher:
        assert torch.equal(our_teacher[name], box_teacher[name]), name
    for name in ("bottleneck_layer.decoder.0.weight", "layer2.0.conv1.weight", "fc.weight"):
        assert not torch.equal(ours[name], before[name]), f"{name} did not learn"
    assert ours["bottleneck_layer.entropy_bottleneck._quantized_cdf"].numel() > 0


def test_config_is_left_as_it_was():
    config = train_config()
    before = copy.deepcopy({k: v["optimizer"] for k, v in config.items()})
    teacher, student = make_models()
    Stage(config["stage1"], student, teacher, 3, CPU, lr_factor=4.0).close()
    assert {k: v["optimizer"] for k, v in config.items()} == before
    assert "requires_supp" not in config["stage1"]["train_data_loader"]


def test_teacher_is_in_eval_mode_and_stays_as_it_is():
    teacher, student = make_models()
    teacher.train()
    before = copy.deepcopy(teacher.state_dict())
    stage = Stage(train_config()["stage1"], student, teacher, 3, CPU)
    stage.begin_epoch()
    assert not any(m.training for m in teacher.modules())
    images, targets, supp = batches()[0]
    io = stage.teacher_forward(images, targets, supp)
    assert not io["layer4"]["output"].requires_grad
    stage.step(stage.student_loss(images, targets, supp, io))
    assert all(torch.equal(before[n], t) for n, t in teacher.state_dict().items())


@pytest.mark.parametrize("frozen", [False, True])
def test_batch_norm_of_frozen_modules_moves_unless_the_config_freezes_it(frozen):
    teacher, student = make_models()
    section = train_config()["stage1"]
    section["student"]["freeze_batch_norm"] = frozen
    before = student.layer2[0].bn1.running_mean.clone()
    stage = Stage(section, student, teacher, 3, CPU)
    stage.begin_epoch()
    images, targets, supp = batches()[0]
    stage.step(
        stage.student_loss(images, targets, supp, stage.teacher_forward(images, targets, supp))
    )
    assert torch.equal(student.layer2[0].bn1.running_mean, before) is frozen
    assert student.bottleneck_layer.training
    assert not student.layer2[0].conv1.weight.requires_grad
    stage.close()
    assert student.layer2[0].conv1.weight.requires_grad


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("frozen_modules", ["layer9"]),
        ("sequential", ["bottleneck_layer", "layr2"]),
        ("forward_hook", {"input": [], "output": ["bottleneck"]}),
    ],
)
def test_a_module_path_that_leads_nowhere_is_an_error(place, value):
    teacher, student = make_models()
    section = train_config()["stage1"]
    section["student"][place] = value
    with pytest.raises(ConfigError, match=r"no module '(layer9|layr2|bottleneck)'"):
        Stage(section, student, teacher, 3, CPU)


def segmenter_section(scheduler):
    section = train_config()["stage2"]
    section["optimizer"] = {
        "key": "SGD",
        "kwargs": {"lr": 0.02},
        "module_wise_kwargs": [
            {"module": "layer4", "kwargs": {}},
            {"module": "fc", "kwargs": {"lr": 0.01}},
        ],
    }
    section["scheduler"] = scheduler
    return section


def test_poly_schedule_ends_at_zero_whatever_the_file_says(caplog):
    """With another dataset's length the published schedule turned complex."""
    teacher, student = make_models()
    scheduler = {
        "key": "poly_lr_scheduler",
        "kwargs": {"num_iterations": 2, "num_epochs": 2, "power": 0.9},
        "scheduling_step": 1,
    }
    stage = Stage(segmenter_section(scheduler), student, teacher, 5, CPU)
    assert "num_iterations is 2, but the stage has 5" in caplog.text
    rates = []
    for _ in range(2 * 5):
        rates.append(stage.learning_rates)
        stage.optimizer.step()
        stage.scheduler.step()
    expected = [0.02 * (1 - step / 10) ** 0.9 for step in range(10)]
    assert [r[0] for r in rates] == pytest.approx(expected)
    assert [r[1] for r in rates] == pytest.approx([r / 2 for r in expected])
    assert stage.learning_rates == [0.0, 0.0]


def test_one_cycle_length_follows_from_the_stage():
    teacher, student = make_models()
    scheduler = {"key": "OneCycleLR", "kwargs": {"max_lr": 0.1}, "scheduling_step": 1}
    stage = Stage(segmenter_section(scheduler), student, teacher, 5, CPU)
    assert stage.scheduler.total_steps == 11


def test_learning_rate_factor_reaches_every_group():
    teacher, student = make_models()
    stage = Stage(segmenter_section(None), student, teacher, 5, CPU, lr_factor=2.0)
    assert stage.learning_rates == [0.04, 0.02]


def test_loss_terms_name_what_is_not_finite():
    teacher, student = make_models()
    with torch.no_grad():
        find_bottleneck(student).decoder[0].weight.fill_(math.inf)
    stage = Stage(train_config()["stage1"], student, teacher, 3, CPU)
    stage.begin_epoch()
    images, targets, supp = batches()[0]
    io = stage.teacher_forward(images, targets, supp)
    loss = stage.student_loss(images, targets, supp, io)
    assert not math.isfinite(float(loss.detach()))
    terms = stage.loss.terms()
    assert set(terms) == {"layer1", "layer2", "layer3", "layer4", "bpp"}
    assert not math.isfinite(terms["layer1"])
    assert math.isfinite(terms["bpp"])


def test_plan_counts_epochs_over_all_stages():
    stages = (StagePlan("stage1", "train.stage1", 1, 0, 3), StagePlan("stage2", "s", 2, 3, 4))
    plan = Plan(stages, update_epoch=3, log_freq=10)
    assert (stages[0].end_epoch, plan.num_epochs) == (3, 7)


def test_noise_comes_from_the_students_own_generator():
    _, student = make_models()
    generator = use_own_noise(student, 11, CPU.device)
    student.train()
    state = generator.get_state()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = student.bottleneck_layer(batches()[0][0])
    assert torch.equal(torch.get_rng_state(), before), "drew from the global generator"
    assert not torch.equal(first, student.bottleneck_layer(batches()[0][0]))
    generator.set_state(state)
    assert torch.equal(first, student.bottleneck_layer(batches()[0][0]))
    assert isinstance(student, nn.Module)
    assert "quantize" not in student.state_dict()
