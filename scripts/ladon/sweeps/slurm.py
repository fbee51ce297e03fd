"""Jobs handed to SLURM through submitit: arrays of jobs that stand on the same ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ladon.errors import UsageError, in_one_line
from ladon.sweeps.jobs import Job, StateOf
from ladon.sweeps.nodes import Resources, by_value, library

FOLDER = Path("logs/slurm")
"""Where submitit keeps its scripts, logs and results; all nodes must see it."""

_MINUTES = 1440
_MOST_TIMEOUTS = 100  # it goes on from where it was each time


def submit(
    jobs: Sequence[Job],
    resources: Resources,
    state_of: StateOf,
    options: Mapping[str, str],
    *,
    side_by_side: int | None = None,
) -> dict[Job, str]:
    """Submit all jobs that are not finished.

    A job whose time runs out or whose machine is taken away saves its state and is queued again.

    Args:
        jobs: each behind those it needs.
        resources: what each job needs.
        state_of: says how far a job is.
        options: further ones of `sbatch`, by their long names.
        side_by_side: how many of an array run at a time; None for any number.

    Returns:
        SLURM's ids, such as '17_0', by job.

    Raises:
        UsageError: submitit is not installed, there is no SLURM, or it refuses.
    """
    submitit = library("submitit", "slurm")
    by_value(library("cloudpickle", "slurm"))
    ids: dict[Job, str] = {}
    states = {job: state_of(job) for job in jobs}
    waiting = [job for job in jobs if states[job] != "finished"]
    try:
        while waiting:
            needs = waiting[0].needs
            array = [job for job in waiting if job.needs == needs]
            waiting = [job for job in waiting if job.needs != needs]
            executor = submitit.SlurmExecutor(FOLDER.absolute(), max_num_timeout=_MOST_TIMEOUTS)
            executor.update_parameters(
                job_name="ladon",
                cpus_per_task=resources.cpus,
                **({"gpus_per_node": resources.gpus} if resources.gpus else {}),
                **({"array_parallelism": side_by_side} if side_by_side else {}),
                time=int(options["time"]) if options.get("time", "").isdecimal() else _MINUTES,
                additional_parameters={**_after(needs, ids), **options},
            )
            errands = [
                resources.errand(
                    job.command(resume=states[job] == "begun"), job.command(resume=True)
                )
                for job in array
            ]
            with executor.batch():
                submitted = [executor.submit(errand) for errand in errands]
            ids.update((job, made.job_id) for job, made in zip(array, submitted, strict=True))
    except (RuntimeError, OSError, submitit.core.utils.FailedJobError) as error:
        raise UsageError(
            f"--engine slurm: cannot submit ({in_one_line(error)}); run it where sbatch and srun "
            f"are{', what was submitted: ' + ', '.join(ids.values()) if ids else ''}"
        ) from error
    return ids


def _after(needs: Sequence[Job], ids: Mapping[Job, str]) -> dict[str, str]:
    """Return the option by which jobs wait for those they need, but for finished ones."""
    before = [ids[need] for need in needs if need in ids]
    if not before:
        return {}
    # what can never start is not left in the queue
    return {"dependency": f"afterok:{':'.join(before)}", "kill-on-invalid-dep": "yes"}
