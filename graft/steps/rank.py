"""One of several processes that do a step together: `torchrun ... -m graft.steps.rank JOB`.

torchrun says through the environment which one it is. The first alone writes outputs and speaks.
"""

from __future__ import annotations

import fcntl
import importlib
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from graft.launching.job import Job, read_job, tell_epoch, tell_failure
from graft.training import distributed
from graft.training.loop import on_epoch


def main(file: Path) -> None:
    """Do the job that a file describes, as one of those who do it."""
    job, folder = read_job(file), file.parent
    _speak_first_alone(folder)
    _leave_with_the_step(folder / "lock")
    # The inner one tells before the group is left: leaving may wait for the others, who wait for us.
    with _telling(folder), distributed.join(), _telling(folder):
        if distributed.rank() == 0:
            on_epoch.set(partial(tell_epoch, folder))
        _do(job)
        distributed.wait()


def _do(job: Job) -> None:
    paths = {name: Path(path) for name, path in {**job.inputs, **job.outputs}.items()}
    step = importlib.import_module(f"graft.steps.{job.step}")
    step.run(**job.settings, **paths, work=Path(job.work))


def _speak_first_alone(folder: Path) -> None:
    """On each machine: what the others print goes to a file."""
    if os.environ.get("LOCAL_RANK", "0") != "0":
        log = os.open(folder / f"rank-{os.environ['RANK']}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)


def _leave_with_the_step(lock: Path) -> None:
    """End when the step that started us is gone, which then holds its lock no more: nobody would wait."""

    def watch() -> None:
        with lock.open() as stream:
            while True:
                try:
                    fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    time.sleep(1)
                else:
                    os._exit(1)

    if lock.exists():
        threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _telling(folder: Path) -> Iterator[None]:
    """What is raised within is told to the step, and ends this process at once."""
    try:
        yield
    except BaseException as error:
        traceback.print_exc()
        tell_failure(folder, int(os.environ.get("RANK", "0")), error)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
