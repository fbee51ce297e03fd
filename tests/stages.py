"""The published recipe of two stages in small: models, config, and six random pictures."""

from __future__ import annotations

import copy

import torch
from students import splittable_section
from torch import Tensor, nn
from torch.utils.data import Dataset, SequentialSampler

from ladon.engine.distributed import World
from ladon.engine.stage import Stage
from ladon.models import build_model, use_own_noise

CPU = World(torch.device("cpu"))
BETA = 0.5


class Pictures(Dataset):
    """Six random pictures of 32x32 pixels in three classes."""

    def __init__(self) -> None:
        self.images = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(1))

    def __getitem__(self, index):
        return self.images[index], index % 3

    def __len__(self):
        return 6


def make_models() -> tuple[nn.Module, nn.Module]:
    """Teacher and student, with the same weights each time."""
    torch.manual_seed(0)
    teacher = build_model(
        {"key": "resnet18", "kwargs": {"num_classes": 3}}, "classification", "teacher"
    )
    student = build_model(splittable_section(), "classification", "student")
    return teacher, student


def squared_error(student_path: str, teacher_path: str) -> dict:
    """The term of a loss that compares two modules' outputs."""
    return {
        "criterion": {"key": "MSELoss", "kwargs": {"reduction": "sum"}},
        "criterion_wrapper": {
            "key": "SimpleLossWrapper",
            "kwargs": {
                "input": {"is_from_teacher": False, "module_path": student_path, "io": "output"},
                "target": {"is_from_teacher": True, "module_path": teacher_path, "io": "output"},
            },
        },
        "weight": 1.0,
    }


def train_config() -> dict[str, dict]:
    """The published recipe in small: two epochs of each stage on six pictures."""
    loader = {
        "dataset_id": "train",
        "sampler": {"class_or_func": SequentialSampler, "kwargs": None},
        "kwargs": {"batch_size": 2, "num_workers": 0},
    }
    rate = {
        "criterion": {
            "key": "BppLoss",
            "kwargs": {
                "entropy_module_path": "bottleneck_layer.entropy_bottleneck",
                "reduction": "sum",
            },
        },
        "weight": BETA,
    }
    kd = {
        "key": "KDLoss",
        "kwargs": {
            "student_module_path": ".",
            "student_module_io": "output",
            "teacher_module_path": ".",
            "teacher_module_io": "output",
            "temperature": 1.0,
            "alpha": 0.5,
            "reduction": "batchmean",
        },
    }
    layers = ["layer2", "layer3", "layer4"]
    return {
        "stage1": {
            "num_epochs": 2,
            "train_data_loader": copy.deepcopy(loader),
            "teacher": {
                "sequential": ["conv1", "bn1", "relu", "maxpool", "layer1", *layers],
                "forward_proc": "forward_batch_only",
                "forward_hook": {"input": [], "output": ["layer1", *layers]},
                "requires_grad": False,
            },
            "student": {
                "sequential": ["bottleneck_layer", *layers],
                "frozen_modules": layers,
                "forward_proc": "forward_batch_only",
                "forward_hook": {
                    "input": [],
                    "output": ["bottleneck_layer", *layers, "bottleneck_layer.entropy_bottleneck"],
                },
                "requires_grad": True,
            },
            "optimizer": {"key": "Adam", "kwargs": {"lr": 1e-3}},
            "scheduler": {"key": "MultiStepLR", "kwargs": {"milestones": [1], "gamma": 0.1}},
            "criterion": {
                "key": "WeightedSumLoss",
                "kwargs": {
                    "sub_terms": {
                        "layer1": squared_error("bottleneck_layer", "layer1"),
                        **{layer: squared_error(layer, layer) for layer in layers},
                        "bpp": rate,
                    }
                },
            },
        },
        "stage2": {
            "num_epochs": 2,
            "train_data_loader": copy.deepcopy(loader),
            "teacher": {"forward_proc": "forward_batch_only", "requires_grad": False},
            "student": {
                "frozen_modules": [
                    "bottleneck_layer.encoder",
                    "bottleneck_layer.entropy_bottleneck",
                ],
                "forward_proc": "forward_batch_only",
                "requires_grad": True,
            },
            "optimizer": {
                "key": "SGD",
                "kwargs": {"lr": 1e-3, "momentum": 0.9, "weight_decay": 5e-4},
                "max_grad_norm": 1.0,
                "grad_accum_step": 3,
            },
            "scheduler": {"key": "MultiStepLR", "kwargs": {"milestones": [1], "gamma": 0.1}},
            "criterion": {
                "key": "WeightedSumLoss",
                "kwargs": {"sub_terms": {"kd": {"criterion": kd, "weight": 1.0}}},
            },
        },
    }


def batches() -> list[tuple[Tensor, Tensor, list[dict]]]:
    """The pictures in pairs: images (2x3x32x32), labels and supplements."""
    data = Pictures()
    return [
        (
            torch.stack([data[i][0] for i in pair]),
            torch.tensor([data[i][1] for i in pair]),
            [{}, {}],
        )
        for pair in ((0, 1), (2, 3), (4, 5))
    ]


def one_step(world: World) -> nn.Module:
    """Take a step of stage 1 on the process's own batch; return the student.

    By plain gradient descent: the step is the mean of all processes' gradients.
    """
    teacher, student = (model.to(world.device) for model in make_models())
    use_own_noise(student, 7, world.device)
    section = train_config()["stage1"]
    section["optimizer"] = {"key": "SGD", "kwargs": {"lr": 1e-4}}
    stage = Stage(section, student, teacher, 3, world)
    stage.begin_epoch()
    images, targets, supp = batches()[world.rank]
    batch = images.to(world.device), targets.to(world.device), supp
    stage.step(stage.student_loss(*batch, stage.teacher_forward(*batch)))
    return student
