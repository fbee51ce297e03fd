"""One of the processes of a gloo run, with a launcher's variables set.

python tests/distributed_worker.py step OUT: takes a training step, writes what became of it
python tests/distributed_worker.py messages OUT: all small messages, on a device without memory
python tests/distributed_worker.py run DEED STEP FAMILY FLAGS: a task script, in which rank 1 does
a deed (term, fail, bug, kill, stop, hang) in its STEPth step; rank 0 if it is called kill@0
python tests/distributed_worker.py apart FAMILY FLAGS: a task script; says which files it writes in
the current folder and by which value each epoch is judged, to which rank 1 would add 7
python tests/distributed_worker.py split START FAMILY FLAGS: a task script, as `given_noise` has it
"""

import json
import os
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS), str(TESTS.parent / "scripts")]


def step(out: str) -> None:
    from stages import one_step

    from ladon.engine.distributed import join_world, leave_world

    torch.set_num_threads(1)
    world = join_world("cpu", 1, "env://")
    student = one_step(world)
    state = {n: p.detach().clone() for n, p in student.named_parameters()}
    torch.save(state, f"{out}.{world.rank}")
    buffers = [{n: b.clone() for n, b in student.named_buffers()}]
    world.share_buffers(student)
    buffers.append({n: b.clone() for n, b in student.named_buffers()})
    torch.save(buffers, f"{out}.buffers.{world.rank}")
    leave_world(world)


def messages(out: str) -> None:
    from dataclasses import replace

    from ladon.engine.distributed import Vote, join_world, leave_world

    joined = join_world("cpu", 1, "env://")
    # tensors on this device have no values: one that is made there cannot be read
    world = replace(joined, device=torch.device("meta"))
    vote = Vote(world)
    found = {
        "gather": world.gather({"rank": world.rank}),
        "broadcast": world.broadcast(["from", world.rank]),
        "maximum": world.maximum(3 + world.rank),
        # rank 1 alone is asked to stop, in the second of four steps
        "votes": [vote.ask(15 if world.rank and at >= 1 else 0) for at in range(3)],
        "settled": vote.settle(),
    }
    world.barrier()
    found["late"] = [vote.ask(15 * world.rank), vote.settle(), vote.settle()]
    Path(f"{out}.{world.rank}").write_text(json.dumps(found))
    leave_world(joined)


def run(deed: str, at: str, family: str, *flags: str) -> None:
    from tiny import SCRIPTS

    from ladon.cli import main
    from ladon.engine import distributed
    from ladon.engine.stage import Stage
    from ladon.errors import DataError

    torch.set_num_threads(1)
    deed, _, rank = deed.partition("@")
    if deed == "hang":
        distributed.TIMEOUT = timedelta(seconds=3)
    original, count = Stage.step, 0

    def step(self, loss):
        nonlocal count
        count += 1
        if count == int(at) and os.environ["RANK"] == (rank or "1"):
            if deed == "term":
                signal.raise_signal(signal.SIGTERM)
            elif deed == "fail":
                raise DataError("image 7.png: cannot be read")
            elif deed == "bug":
                raise ValueError("of a library")
            elif deed == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            elif deed == "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            elif deed == "hang":
                time.sleep(600)
        return original(self, loss)

    Stage.step = step
    sys.exit(main(SCRIPTS[family], flags))


def apart(family: str, *flags: str) -> None:
    from tiny import SCRIPTS

    from ladon.cli import main
    from ladon.engine.model_evaluator import ModelEvaluator
    from ladon.engine.stage import Stage

    torch.set_num_threads(1)
    finish, end_epoch = ModelEvaluator.finish, Stage.end_epoch

    def finish_apart(self, *args):
        found = finish(self, *args)
        found.metrics["acc1"] += 7 * int(os.environ["RANK"])
        return found

    def judge(self, metric):
        say(f"judged by {metric}")
        return end_epoch(self, metric)

    def say(text: str) -> None:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    def look(event: str, args: tuple) -> None:
        if event == "open" and isinstance(args[0], str) and set(str(args[1])) & set("wax+"):
            path = os.path.abspath(args[0])
            if path.startswith(f"{os.getcwd()}/"):
                say(f"wrote {path}")

    ModelEvaluator.finish, Stage.end_epoch = finish_apart, judge
    sys.addaudithook(look)
    sys.exit(main(SCRIPTS[family], flags))


def split(start: str, family: str, *flags: str) -> None:
    from given_noise import nothing_depends_on_the_split
    from tiny import SCRIPTS

    from ladon.cli import main

    torch.set_num_threads(1)
    nothing_depends_on_the_split(start)
    sys.exit(main(SCRIPTS[family], flags))


if __name__ == "__main__":
    WORK = (step, messages, run, apart, split)
    {work.__name__: work for work in WORK}[sys.argv[1]](*sys.argv[2:])
