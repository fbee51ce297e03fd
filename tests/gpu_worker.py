"""A distributed run's only process: takes a training step as one of many would.

python tests/gpu_worker.py OUT DEVICE, with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT set.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS), str(TESTS.parent / "scripts")]


def main(out: str, device_name: str) -> None:
    from stages import one_step

    from ladon.engine.distributed import World

    class Alone(World):
        """One process that behaves as if there were others."""

        distributed = True

    torch.set_num_threads(1)
    device = torch.device(device_name)
    if device.type == "cuda":
        device = torch.device("cuda", 0)
        torch.cuda.set_device(device)
        dist.init_process_group("nccl", device_id=device)
    else:
        dist.init_process_group("gloo")
    world = Alone(device, 0, 1, group=dist.new_group(backend="gloo"))
    student = one_step(world)
    world.share_buffers(student)
    assert world.gather("here") == ["here"]
    assert world.maximum(3) == 3
    world.barrier()
    torch.save({name: p.detach().cpu() for name, p in student.named_parameters()}, out)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
