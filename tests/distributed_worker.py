"""One of two processes of a gloo run: takes a training step and writes what became of it.

python tests/distributed_worker.py OUT, with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT set.
"""

import os
import sys
from pathlib import Path

import torch

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS), str(TESTS.parent / "scripts")]


def main(out: str) -> None:
    from test_engine_stage import batches, make_models, train_config

    from ladon.engine.distributed import join_world, leave_world
    from ladon.engine.stage import Stage
    from ladon.models import use_own_noise

    torch.set_num_threads(1)
    world = join_world("cpu", 1, "env://")
    teacher, student = make_models()
    use_own_noise(student, 7, world.device)
    section = train_config()["stage1"]
    # plain gradient descent, so that the step is the mean of both processes' gradients
    section["optimizer"] = {"key": "SGD", "kwargs": {"lr": 1e-4}}
    stage = Stage(section, student, teacher, 3, world)
    stage.begin_epoch()
    images, targets, supp = batches()[world.rank]
    io = stage.teacher_forward(images, targets, supp)
    stage.step(stage.student_loss(images, targets, supp, io))
    state = {n: p.detach().clone() for n, p in student.named_parameters()}
    torch.save(state, f"{out}.{os.environ['RANK']}")
    world.barrier()
    leave_world()


if __name__ == "__main__":
    main(sys.argv[1])
