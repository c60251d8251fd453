"""Training in several processes: started here by torchrun, or on a cluster by Kubeflow Trainer.

The step writes down what to do (`job.Job`), every process does it (`python -m graft.steps.rank JOB`), and the
step waits, shows what the first process says, and raises what went wrong.
"""

from __future__ import annotations

from graft.launching.job import Job
from graft.params import Launch


def launch(job: Job, by: Launch) -> None:
    """Let several processes do a job, and wait for them.

    Killed at any moment, the next call goes on from the last checkpoint in `job.work`.

    Args:
        job: What to do.
        by: `torchrun` or `trainjob`, and how many.

    Raises:
        GraftError: a process failed, in its own words, or there is no way to start them.
    """
    if by.kind == "torchrun":
        from graft.launching.torchrun import by_torchrun

        by_torchrun(job, by.processes)
    else:
        from graft.launching.trainjob import by_trainjob

        by_trainjob(job, by)
