"""A file in the legacy schema, trained and tested by the legacy script, end to end."""

from __future__ import annotations

from pathlib import Path

import pytest
import warm
from data_config.helpers import write

from ladon.cli import main

SCRIPT = Path(__file__).resolve().parents[1] / "legacy" / "scripts" / "image_classification.py"

CONFIG = """
datasets:
  digit_scenes:
    name: &dataset_name 'digit_scenes'
    type: 'ImageFolder'
    root: &root_dir !join ['~/dataset/', *dataset_name]
    splits:
      train:
        dataset_id: &train_id !join [*dataset_name, '/train']
        params:
          root: !join [*root_dir, '/train']
          transform_params:
            - type: 'RandomCrop'
              params: {size: 96, padding: 4}
            - &totensor
              type: 'ToTensor'
              params:
            - &normalize
              type: 'Normalize'
              params: {mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}
      val:
        dataset_id: &val_id !join [*dataset_name, '/val']
        params:
          root: !join [*root_dir, '/val']
          transform_params: [*totensor, *normalize]
models:
  teacher_model:
    name: &teacher_name 'resnet18'
    params: {num_classes: 10}
    ckpt: &teacher_ckpt 'TEACHER'
  student_model:
    name: 'splittable_resnet'
    params:
      resnet_name: *teacher_name
      num_classes: 10
      org_model_ckpt_file_path_or_url: *teacher_ckpt
      bottleneck_config:
        name: 'FPBasedResNetBottleneck'
        params: {num_bottleneck_channels: 12, num_target_channels: 64}
      pre_transform_params:
      skips_avgpool: False
      skips_fc: False
    ckpt: 'STUDENT'
train:
  log_freq: 20
  epoch_to_update: &num_epochs 1
  stage1:
    num_epochs: *num_epochs
    train_data_loader: &loader
      dataset_id: *train_id
      random_sample: True
      batch_size: 16
      num_workers: 0
      cache_output:
    val_data_loader: &val_loader
      dataset_id: *val_id
      random_sample: False
      batch_size: 4
      num_workers: 0
    teacher:
      sequential: ['conv1', 'bn1', 'relu', 'maxpool', 'layer1']
      forward_hook: {input: [], output: ['layer1']}
      wrapper: 'DistributedDataParallel'
      requires_grad: False
    student:
      adaptations:
      sequential: ['bottleneck_layer']
      forward_hook: {input: [], output: ['bottleneck_layer', 'bottleneck_layer.entropy_bottleneck']}
    apex: {requires: False, opt_level: '01'}
    optimizer: {type: 'Adam', params: {lr: 0.002}}
    criterion:
      type: 'GeneralizedCustomLoss'
      org_term: {factor: 0.0}
      sub_terms:
        layer1:
          criterion: {type: 'MSELoss', params: {reduction: 'sum'}}
          params:
            input: {is_from_teacher: False, module_path: 'bottleneck_layer', io: 'output'}
            target: {is_from_teacher: True, module_path: 'layer1', io: 'output'}
          factor: 1.0
        bpp:
          criterion:
            type: 'BppLoss'
            params: {entropy_module_path: 'bottleneck_layer.entropy_bottleneck', reduction: 'sum'}
          factor: 0.32
  stage2:
    num_epochs: 1
    train_data_loader: *loader
    val_data_loader: *val_loader
    teacher: {requires_grad: False}
    student: {frozen_modules: ['bottleneck_layer.encoder', 'bottleneck_layer.entropy_bottleneck']}
    optimizer: {type: 'SGD', params: {lr: 0.01, momentum: 0.9}}
    scheduler:
      type: 'poly_lr_scheduler'
      params: {num_iterations: None, power: 0.9}
      scheduling_step: 1
    criterion:
      type: 'GeneralizedCustomLoss'
      org_term:
        criterion: {type: 'KDLoss', params: {temperature: 1.0, alpha: 0.5, reduction: 'batchmean'}}
        factor: 1.0
      sub_terms:
test:
  test_data_loader: {dataset_id: *val_id, random_sample: False, batch_size: 1, num_workers: 0}
"""


@pytest.fixture(scope="module")
def trained(lab):
    """The config, trained through the legacy command line."""
    text = CONFIG.replace("TEACHER", str(lab.checkpoint("teacher")))
    config = write(
        lab.folder, text.replace("STUDENT", str(lab.checkpoint("legacy"))), "legacy.yaml"
    )
    log = lab.folder / "logs" / "legacy.txt"
    flags = ["--config", str(config), "--log", str(log), "--device", "cpu", "--seed", "0"]
    flags += ["--data_root", str(lab.data_root)]
    assert main("image_classification", flags, legacy=True) == 0
    return config


def test_it_trains_in_two_stages(lab, trained):
    log = lab.log("legacy")
    order = [
        "Started stage1",
        "Started stage2",
        "Updating entropy bottleneck",
        "[Teacher: resnet18]",
    ]
    places = [log.index(text) for text in order]
    assert places == sorted(places)
    assert "lr: 0.00694253" in log  # 0.01 (1 - 1/3) ** 0.9: three iterations, though none are named
    assert "WARNING" not in log
    found = lab.metrics("legacy")
    assert set(found["models"]) == {"teacher", "student"}
    assert found["models"]["student"]["payload_bytes"]["n"] == 12


def test_a_checkpoint_gives_the_same_through_both_schemas(lab, trained):
    """The legacy script itself on the legacy file; the current engine on a current file."""
    log = lab.folder / "logs" / "legacy_script.txt"
    command = [str(SCRIPT), "-test_only", "-student_only", "--device", "cpu"]
    command += ["--config", str(trained), "--log", str(log), "--data_root", str(lab.data_root)]
    done = warm.run(command, cwd=lab.folder)
    assert done.returncode == 0, done.stderr
    checkpoint = str(lab.checkpoint("legacy"))
    current = lab.config("classification", "twin", models__student_model__dst_ckpt=checkpoint)
    assert lab.run("classification", "-test_only", "-student_only", config=current) == 0
    ours, theirs = (lab.metrics(n)["models"]["student"] for n in ("legacy_script", "twin"))
    for key in ("metrics", "payload_bytes", "data_size_kb"):
        assert ours[key] == theirs[key]
    assert ours["metrics"] == lab.metrics("legacy")["models"]["student"]["metrics"]
