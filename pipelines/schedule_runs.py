"""Recurring runs on a Kubeflow Pipelines server, and putting a plan into effect."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import kfp_server_api
from kfp_server_api.exceptions import ApiException

from graft.params import read_params
from graft.progress import say
from pipelines.kubeflow import Server, experiment_id, quiet, upload, version_name
from pipelines.schedule_plans import Action, Existing, Wanted, changes, parameter_fields, read_mark
from pipelines.schedules import Schedule, Schedules, instant
from pipelines.submitting import data_address, package

PAGE = 100


def compile_wanted(file: Schedules, folder: Path, *, allow_tag: bool = False) -> list[Wanted]:
    """The recurring runs that schedules.yaml asks for, each with its compiled pipeline.

    Args:
        file: The checked schedules.yaml.
        folder: Gets the compiled pipelines.
        allow_tag: Take an image without digest.

    Raises:
        GraftError: a parameter file is missing or wrong, or as `pipelines.submitting.package`.
    """
    return [_compiled(file.project, one, folder / f"{one.name}.yaml", allow_tag) for one in file.recurring()]


def list_existing(server: Server, project: str) -> list[Existing]:
    """The recurring runs of a project; those of others are left out.

    Raises:
        GraftError: as `Server.ask`.
    """
    found, token = [], ""
    while True:
        page = server.ask("list the recurring runs", lambda token=token: _page(server, token))  # type: ignore[misc]
        found += [_existing(run, project) for run in page.recurring_runs or []]
        if not (token := page.next_page_token or ""):
            return [each for each in found if each is not None]


def apply(server: Server, actions: Sequence[Action]) -> None:
    """Put a plan into effect; after a fault in the middle, plan and apply again.

    Raises:
        GraftError: as `Server.ask`; what was done until then stays.
    """
    for action in changes(actions):
        if action.wanted is not None:
            _create(server, action.wanted)
        elif action.kind in ("enable", "disable"):
            _switch(server, str(action.run_id), action.kind == "enable")
        if action.kind in ("replace", "retire"):
            _retire(server, str(action.run_id))
        say(f"{action.name}: {action.kind} done")


def _compiled(project: str, one: Schedule, file: Path, allow_tag: bool) -> Wanted:
    params = read_params(one.params, one.overrides)
    parameters = package(params, data_address(one.data), file, allow_tag=allow_tag)
    return Wanted(project, one, parameters, version_name(file), file)


def _page(server: Server, token: str) -> Any:
    return server.client.list_recurring_runs(page_token=token, page_size=PAGE, namespace=server.namespace)


def _existing(run: kfp_server_api.V2beta1RecurringRun, project: str) -> Existing | None:
    mark = read_mark(run.description, project)
    if mark is None:
        return None
    name, digest, noted = mark
    cron, periodic = run.trigger.cron_schedule, run.trigger.periodic_schedule
    times = cron or periodic
    fields = {
        "cron": cron.cron if cron else None,
        "interval_seconds": int(periodic.interval_second) if periodic else None,
        "start": _text(times.start_time),
        "end": _text(times.end_time),
        "catch_up": not run.no_catchup,
        "max_concurrency": int(run.max_concurrency),
        **noted,
        **parameter_fields(run.runtime_config.parameters or {}),
    }
    return Existing(str(run.recurring_run_id), name, digest, run.status == "ENABLED", fields)


def _text(moment: datetime | None) -> str | None:
    """Absent times come as none, or as the beginning of time."""
    return instant(moment) if moment and moment.year > 1970 else None


def _create(server: Server, wanted: Wanted) -> None:
    """Make a recurring run, unless an earlier attempt did."""
    one = wanted.schedule
    version, experiment = upload(server, wanted.package), experiment_id(server, one.experiment)

    def there() -> bool:
        same = [each for each in list_existing(server, wanted.project) if each.name == one.name]
        return any(each.digest == wanted.digest for each in same)

    def send() -> bool:
        with quiet():
            server.client.create_recurring_run(
                experiment,
                one.name,
                description=wanted.description,
                start_time=instant(one.start),
                end_time=instant(one.end),
                interval_second=one.interval_seconds,
                cron_expression=one.cron,
                max_concurrency=one.max_concurrency,
                no_catchup=not one.catch_up,
                params=dict(wanted.parameters),
                pipeline_id=version.pipeline_id,
                version_id=version.version_id,
                enabled=one.enabled,
            )
        return True

    server.ask(f"make the recurring run {one.name}", lambda: there() or send())


def _switch(server: Server, run_id: str, enabled: bool) -> None:
    client = server.client
    send = client.enable_recurring_run if enabled else client.disable_recurring_run
    word = "enable" if enabled else "disable"
    server.ask(f"{word} the recurring run {run_id}", lambda: send(run_id))


def _retire(server: Server, run_id: str) -> None:
    """Disable, then delete; a run that it started goes on.

    Orphaning is known to servers from 2.16 on; an older one ends runs in progress with their schedule
    (kubeflow/pipelines issue 12573).
    """
    api = server.client._recurring_run_api

    def delete() -> None:
        api.recurring_run_service_delete_recurring_run(run_id, propagation_policy="ORPHAN")

    server.ask(f"disable the recurring run {run_id}", _unless_gone(lambda: _disable(server, run_id)))
    server.ask(f"delete the recurring run {run_id}", _unless_gone(delete))


def _disable(server: Server, run_id: str) -> None:
    server.client.disable_recurring_run(run_id)


def _unless_gone(send: Callable[[], None]) -> Callable[[], None]:
    """What an earlier attempt, or somebody else, has deleted needs no more."""

    def sent() -> None:
        try:
            send()
        except ApiException as error:
            if error.status != 404:
                raise

    return sent
