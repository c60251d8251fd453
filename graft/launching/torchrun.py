"""Several processes on this machine, started and watched by torchrun."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from signal import SIGTERM, Signals

import torch

from graft.files import remove
from graft.launching.job import Job, epoch_listener, failure_of, write_job
from graft.progress import say

KEPT_LINES = 200  # of the output, to find out who died
PATIENCE = 15  # seconds for torchrun to end its processes
_DEATH = re.compile(r"rank\s*: (\d+) \(.*\n\s*exitcode\s*: -(\d+) ")  # in torchrun's report


def by_torchrun(job: Job, processes: int | None) -> None:
    """Let processes of this machine do a job.

    They end with this one, however it ends.

    Args:
        job: What to do.
        processes: How many; None is one for each GPU, one without GPUs.

    Raises:
        GraftError: one of them failed or was killed.
    """
    count = processes or torch.cuda.device_count() or 1
    remove(job.folder)
    file = write_job(job)
    say(f"{job.step}: {count} processes on this machine")
    with _locked(job.folder / "lock"):
        code, lines = _run(
            [*command(), "--standalone", f"--nproc-per-node={count}", *target(file)], job, count
        )
    if code:
        raise failure_of(job.folder, death(lines), f"torchrun ended with exit code {code}")


def command() -> list[str]:
    """torchrun, as it is started here and in a TrainJob's pods; there the environment says how many."""
    return [sys.executable, "-m", "torch.distributed.run"]


def target(file: Path) -> list[str]:
    """What torchrun starts."""
    return ["-m", "graft.steps.rank", str(file)]


def death(lines: Sequence[str]) -> str | None:
    """Which process a signal killed, by torchrun's report; those that torchrun itself ended do not count."""
    found = [(int(rank), int(number)) for rank, number in _DEATH.findall("\n".join(lines))]
    for rank, number in found:
        if number != SIGTERM:
            return f"process {rank} was killed by {Signals(number).name}"
    return None


def _run(arguments: Sequence[str], job: Job, count: int) -> tuple[int, list[str]]:
    """The exit code of torchrun and the end of what it and its processes said."""
    process = subprocess.Popen(
        arguments,
        env=_environment(count),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # Ctrl-C comes to this process alone, which ends the others
    )
    lines: deque[str] = deque(maxlen=KEPT_LINES)
    reader = threading.Thread(target=_show, args=(process, lines), daemon=True)
    reader.start()
    listen = epoch_listener(job.folder)
    try:
        while process.poll() is None:
            listen()
            time.sleep(0.1)
        listen()
    finally:
        _end(process)
        reader.join(PATIENCE)
    return process.returncode, list(lines)


def _show(process: subprocess.Popen[str], lines: deque[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        sys.stderr.write(line)
        sys.stderr.flush()


def _end(process: subprocess.Popen[str]) -> None:
    """torchrun ends its processes when it is asked to; if it is killed itself, they notice."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _environment(count: int) -> dict[str, str]:
    """They share the processor's cores."""
    cores = max(1, (os.cpu_count() or 1) // count)
    shared = {} if count == 1 or "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(cores)}
    return {**os.environ, **shared, "PYTHONUNBUFFERED": "1"}


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that the system lets go of when this process dies."""
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
