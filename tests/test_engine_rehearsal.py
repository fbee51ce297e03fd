"""A dry run runs each stage once without data: what does not fit is named."""

from __future__ import annotations

import pytest
import torch
from students import coded
from tiny import ROOT

from ladon.cli import main
from ladon.tasks import TASKS

CONFIGS = {
    "image_classification": "ilsvrc2012/ladon/splittable_resnet50-fp-beta0.32_from_resnet50.yaml",
    "semantic_segmentation": (
        "pascal_voc2012/ladon/deeplabv3_splittable_resnet50-fp-beta0.32_two_stages.yaml"
    ),
    "object_detection": "coco2017/ladon/faster_rcnn_splittable_resnet50-fp-beta0.32_fpn.yaml",
}
STUDENT = "models.student_model.kwargs"
LAYER1 = "train.stage1.criterion.kwargs.sub_terms.layer1.criterion"


def dry_run(capsys, task, *assignments):
    words = ["--config", str(ROOT / "configs" / CONFIGS[task]), "--dry_run", "--device", "cpu"]
    for assignment in assignments:
        words += ["--set", assignment]
    code = main(task, words)
    return code, capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("task", CONFIGS)
def test_a_shipped_config_fits(capsys, task):
    code, line = dry_run(capsys, task)
    assert code == 0, line
    assert "nothing wrong with" in line


@pytest.mark.parametrize(
    ("assignments", "parts"),
    [
        (
            [f"{STUDENT}.bottleneck_config.kwargs.decoder_channel_sizes=[24, 512, 256, 64]"],
            ["train.stage1 in", ".yaml:", "does not fit in student.layer2.0.conv1: RuntimeError"],
        ),
        (
            [f"{STUDENT}.num_classes=5", "models.student_model.reset_head=true"],
            ["train.stage2 in", "does not fit in the criterion"],
        ),
        (
            ["models.teacher_model={key: resnet50, kwargs: {num_classes: 5}, src_ckpt: x.pt}"],
            ["train.stage2 in", "the criterion"],
        ),
        (
            [f"{STUDENT}.resnet_name=resnet34", f"{STUDENT}.num_classes=1000"],
            [".yaml:", "num_target_channels: must be 64, not 256", "layer2 of resnet34 takes"],
        ),
        (
            [f"{LAYER1}={{key: own_losses.Dies}}"],
            ["train.stage1 in", "the criterion's term 'layer1' (Dies)", "ValueError: no good"],
        ),
        (
            ["train.stage2.optimizer.kwargs={lr: 0.1, nesterov: true}"],
            ["train.stage2 in", "cannot set up: ValueError: Nesterov momentum requires"],
        ),
        (
            ["train.stage2.student.frozen_modules.1=bottleneck_layer.coder"],
            [": train.stage2.student.frozen_modules.1: the model has no module", "_layer.enc"],
        ),
        (
            ["train.stage1.teacher.forward_hook.output.3=layer5"],
            ["reads the output of 'layer4', which train.stage1.teacher.forward_hook.output"],
        ),
        (
            ["models.teacher_model.kwargs.weights=null"],
            ["_base_/resnet50.yaml:4: models.teacher_model: neither src_ckpt nor pretrained"],
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_a_run(capsys, assignments, parts):
    code, line = dry_run(capsys, "image_classification", *assignments)
    assert code == 2, line
    for part in parts:
        assert part in line


@pytest.mark.parametrize("task", ["image_classification", "semantic_segmentation"])
def test_an_example_is_a_batch(task):
    images, targets = TASKS[task].example(torch.device("cpu"))
    assert len(images) == len(targets) == 2
    assert targets.dtype == torch.int64
    if task == "image_classification":
        assert coded().eval()(images).shape == (2, 3)
