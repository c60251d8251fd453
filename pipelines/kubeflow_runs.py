"""Runs on a Kubeflow Pipelines server: starting one, and watching it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import kfp_server_api

from components.__main__ import STEPS
from graft.progress import say
from pipelines.kubeflow import Server, Version, by_name, quiet

ENDED = {"SUCCEEDED", "FAILED", "SKIPPED", "CANCELED"}  # kfp's own waiting forgets CANCELED, and never ends


def start_run(
    server: Server, version: Version, experiment: str, name: str, parameters: Mapping[str, Any]
) -> str:
    """Start a run, once; twice only if the server gets to it after we had given up waiting and looked.

    Args:
        experiment: Its id.
        name: Which no other run has: by it we know whether an attempt got through.
        parameters: Of the pipeline.

    Returns:
        The run's id.

    Raises:
        GraftError: as `Server.ask`.
    """

    def find() -> str | None:
        found = server.client.list_runs(experiment_id=experiment, filter=by_name(name)).runs
        return str(found[0].run_id) if found else None

    def send() -> str:
        ids = {"pipeline_id": version.pipeline_id, "version_id": version.version_id}
        with quiet():
            return str(server.client.run_pipeline(experiment, name, params=dict(parameters), **ids).run_id)

    return server.ask(f"start the run {name}", lambda: find() or send())


def wait(server: Server, run_id: str, *, every: float = 5.0) -> str:
    """Tell of each step as it starts and ends, until the run has ended.

    Args:
        every: Seconds between looks.

    Returns:
        SUCCEEDED, FAILED, SKIPPED or CANCELED.

    Raises:
        GraftError: the server stops answering; the run goes on without us.
    """
    told: dict[str, str] = {}
    while True:
        run = server.ask(f"look at the run {run_id}", lambda: server.client.get_run(run_id))
        for name, state, text in _tasks(run):
            if told.get(name) != state:
                told[name] = state
                say(f"{name}: {text}")
        if run.state in ENDED:
            return str(run.state)
        time.sleep(every)


def run_url(server: Server, run_id: str) -> str:
    """Where people see a run."""
    return f"{server.client._get_url_prefix()}/#/runs/details/{run_id}"


def _tasks(run: kfp_server_api.V2beta1Run) -> Iterator[tuple[str, str, str]]:
    """Name, state and what to say, of our steps; Kubeflow lists its drivers among them."""
    details = run.run_details.task_details if run.run_details else None
    for task in details or []:
        name = str(task.display_name or "").replace("-", "_")
        if name not in STEPS or not task.state:
            continue
        text = task.state.lower()
        if task.state in ENDED and task.start_time and task.end_time:
            text += f" after {(task.end_time - task.start_time).total_seconds():.0f} s"
        if task.error and task.error.message:
            text += f": {task.error.message}"
        yield name, task.state, text
