"""Several nodes: a step starts a TrainJob of Kubeflow Trainer v2 and waits for it.

The pods of the job share one folder with the step: checkpoints, inputs and outputs. A step whose own pod is
lost leaves the job running; started again, it finds the job by its name, which follows from the content of
all that the result depends on, and waits on.
"""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from graft.errors import GraftError
from graft.files import link_file, remove, whole_folder
from graft.launching.job import AGAIN, Job, epoch_listener, failure_of, forget_messages, write_job
from graft.launching.kubernetes import Cluster, Json, connect
from graft.launching.logs import LogReader, why_failed, why_waiting
from graft.launching.manifest import job_name, require_shared, trainjob
from graft.launching.torchrun import command, death, target
from graft.params import Launch
from graft.progress import say

POLL = 2.0  # seconds


def by_trainjob(job: Job, launch: Launch) -> None:
    """Let the pods of a TrainJob do a job.

    Args:
        job: What to do; `work` is on storage that all pods share.
        launch: How many nodes, and how many processes on each.

    Raises:
        GraftError: this is no pod, its storage is its own, Kubernetes refuses, or a process failed.
    """
    cluster = connect()
    pod = cluster.own_pod()
    require_shared(pod, Path(job.work))
    shared = _staged(job)
    name = job_name(job.step, Path(job.work))
    with _terminated_like_interrupted():
        try:
            _begin(
                cluster,
                trainjob(name, pod, [*command(), *target(shared.folder / "job.json")], launch),
                shared,
            )
            _follow(cluster, name, shared.folder)
        finally:
            _clear_away(cluster, name)
    for argument, path in job.outputs.items():
        _copy(Path(shared.outputs[argument]), Path(path))


def _staged(job: Job) -> Job:
    """The same job with its inputs and outputs beside the checkpoints: a pod does not see another's files."""
    inputs = {name: str(job.folder / "inputs" / name) for name in job.inputs}
    outputs = {name: str(job.folder / "outputs" / name) for name in job.outputs}
    if not (job.folder / "inputs").is_dir():
        with whole_folder(job.folder / "inputs") as folder:
            for name, path in job.inputs.items():
                _copy(Path(path), folder / name)
    return replace(job, inputs=inputs, outputs=outputs)


def _copy(source: Path, destination: Path) -> None:
    remove(destination)
    destination.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, destination, copy_function=link_file)
    else:
        link_file(source, destination)


def _begin(cluster: Cluster, manifest: Json, job: Job) -> None:
    """Create the TrainJob, or join the one of its name that an earlier attempt of this step left."""
    name = manifest["metadata"]["name"]
    found = cluster.get(name)
    if found is not None and _serves(found, job):
        say(f"{job.step}: goes on with the TrainJob {name}, which is there already")
        return
    if found is not None:
        say(f"{job.step}: clears away an earlier TrainJob {name}")
        cluster.delete(name)
        while cluster.get(name) is not None:
            time.sleep(POLL)
    forget_messages(job.folder)
    write_job(job)
    trainer = manifest["spec"]["trainer"]
    nodes, each = trainer["numNodes"], trainer["numProcPerNode"]
    say(f"{job.step}: TrainJob {name}, {each} processes on each of {nodes} nodes")
    cluster.create(manifest)  # where one exists by now, our first request was heard and its answer lost


def _serves(found: Json, job: Job) -> bool:
    """Whether a TrainJob runs, or has left its outputs where they belong."""
    if _ended(found) == "Complete":
        return all(Path(path).exists() for path in job.outputs.values())
    return _ended(found) is None and not _leaving(found)


def _follow(cluster: Cluster, name: str, folder: Path) -> None:
    """Show what the first process says until the job has ended."""
    reader, listen, waiting = LogReader(cluster), epoch_listener(folder), ""
    while True:
        job = cluster.get(name)
        if job is None or _leaving(job):
            raise GraftError(f"somebody deleted the TrainJob {name} while it ran", AGAIN)
        pods, ended = cluster.pods(name), _ended(job)
        reader.show(pods)
        listen()
        if ended == "Complete":
            return
        if ended == "Failed":
            died = why_failed(pods) or death(reader.last_words(pods))
            raise failure_of(folder, died, f"the TrainJob {name} failed: {_said(job)}")
        if (reason := why_waiting(pods)) != waiting:
            waiting = reason
            if reason:
                say(f"waiting for {reason}")
        time.sleep(POLL)


def _clear_away(cluster: Cluster, name: str) -> None:
    """Delete a job; what it came to matters more than that it stays."""
    try:
        cluster.delete(name)
    except GraftError as error:
        say(f"the TrainJob {name} may still be there: {error.problem}")


def _conditions(job: Json) -> dict[str, Any]:
    conditions = job.get("status", {}).get("conditions", [])
    return {one["type"]: one for one in conditions if one["status"] == "True"}


def _ended(job: Json) -> str | None:
    return next((kind for kind in ("Complete", "Failed") if kind in _conditions(job)), None)


def _said(job: Json) -> str:
    return str(_conditions(job)["Failed"].get("message") or "no reason is given")


def _leaving(job: Json) -> bool:
    return bool(job["metadata"].get("deletionTimestamp"))


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Kubernetes stops a pod by SIGTERM; what Ctrl-C clears away is then cleared away, too."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        with suppress(TypeError):  # set by something other than Python
            signal.signal(signal.SIGTERM, before)
