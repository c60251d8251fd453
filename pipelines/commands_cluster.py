"""The commands that talk to Kubeflow Pipelines: start a run, keep schedules."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from graft.errors import GraftError

if TYPE_CHECKING:
    from pipelines.kubeflow import Server
    from pipelines.schedule_plans import Action
    from pipelines.schedules import Schedules

F = TypeVar("F", bound=Callable[..., Any])

_host = click.option(
    "--host",
    required=True,
    metavar="URL",
    envvar="KF_PIPELINES_ENDPOINT",
    help="Kubeflow Pipelines; else KF_PIPELINES_ENDPOINT. GRAFT_KFP_TOKEN is sent, where it is set.",
)
_namespace = click.option("--namespace", help="Yours, where several users share the server.")
_file = click.option("--file", default="schedules.yaml", show_default=True, type=click.Path(path_type=Path))
_tag = click.option("--allow-tag", is_flag=True, help="Take an image without digest.")


@click.command("submit")
@_host
@_namespace
@click.option("--experiment", help="Else params.yaml's registry.experiment.")
@click.option(
    "--params", "files", multiple=True, type=click.Path(), help="params.yaml and overlays; later ones win."
)
@click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="One override.")
@click.option("--data", required=True, metavar="ADDRESS", help="s3://..., a .dvc file, git+URL@REVISION ...")
@click.option("--image", metavar="NAME@sha256:...", help="Of every step; else cluster.image or GRAFT_IMAGE.")
@_tag
@click.option("--wait", is_flag=True, help="Until it has ended; exit status 1 unless it succeeded.")
@click.option("--only-when", type=click.Choice(["data-changed", "drifted"]), help="Else start nothing.")
@click.option("--monitor", default="monitor/monitor.json", show_default=True, type=click.Path(path_type=Path))
def submit(
    host: str,
    namespace: str | None,
    experiment: str | None,
    files: tuple[str, ...],
    overrides: tuple[str, ...],
    data: str,
    image: str | None,
    allow_tag: bool,
    wait: bool,
    only_when: str | None,
    monitor: Path,
) -> None:
    """Start the chain on a cluster, and print the address of the run.

    The compiled pipeline is uploaded as a version that is named by its content, once.

    With --only-when nothing is started, and the exit status is 0, if a registered version has seen the
    data already (data-changed), or if monitor.json says fine or is older than the newest version (drifted).
    """
    from graft.params import read_params
    from pipelines.submitting import data_address
    from pipelines.submitting import submit as start

    params = read_params(files or ["params.yaml"], overrides)
    address = data_address(data)
    if only_when and (why_not := _why_not(only_when, address, params.registry, monitor)):
        return click.echo(f"not started: {why_not}")
    server = _connect(host, namespace)
    chosen = experiment or params.registry.experiment
    run = start(server, params, address, experiment=chosen, image=image, allow_tag=allow_tag)
    return _follow(server, run, wait)


def _why_not(only_when: str, address: str, registry: Any, monitor: Path) -> str | None:
    from pipelines.conditions import why_not_data, why_not_drifted

    if only_when == "data-changed":
        return why_not_data(address, registry)
    return why_not_drifted(monitor, registry)


def _follow(server: Server, run: str, wait: bool) -> None:
    """Print where the run is; with `wait`, leave with its outcome."""
    from pipelines.kubeflow_runs import run_url
    from pipelines.kubeflow_runs import wait as wait_for

    click.echo(run_url(server, run))
    if not wait:
        return
    try:
        state = wait_for(server, run)
    except KeyboardInterrupt:
        click.echo("no longer waiting; the run goes on", err=True)
        sys.exit(130)
    click.echo(state.lower())
    if state != "SUCCEEDED":
        sys.exit(1)


@click.group("schedule")
def schedule() -> None:
    """Keep recurring runs as schedules.yaml has them."""


def _planned(function: F) -> F:
    for option in (_tag, _namespace, _host, _file):
        function = option(function)
    return function


@schedule.command("plan")
@_planned
def plan_(file: Path, host: str, namespace: str | None, allow_tag: bool) -> None:
    """Show what `apply` would do, and why. Changes nothing."""
    with _plan(file, host, namespace, allow_tag) as (_, actions, schedules):
        _print_plan(actions, schedules)


@schedule.command("diff")
@_planned
def diff(file: Path, host: str, namespace: str | None, allow_tag: bool) -> None:
    """Show old and new values. Exit status 2 where the server differs from the file, 0 where not."""
    from pipelines.schedule_plans import changes

    with _plan(file, host, namespace, allow_tag) as (_, actions, _schedules):
        different = changes(actions)
    for action in different:
        click.echo(f"{action.name}: {action.kind}")
        for reason in action.reasons:
            click.echo(f"  {reason}")
    if different:
        sys.exit(2)
    click.echo("no differences")


@schedule.command("apply")
@_planned
def apply_(file: Path, host: str, namespace: str | None, allow_tag: bool) -> None:
    """Make, replace and retire recurring runs. After an error, the same command goes on."""
    from pipelines.schedule_plans import changes
    from pipelines.schedule_runs import apply

    with _plan(file, host, namespace, allow_tag) as (server, actions, schedules):
        _print_plan(actions, schedules)
        apply(server, actions)
        click.echo(f"done: {len(changes(actions))} changes")


@schedule.command("render")
@_file
@click.option("--host", required=True, metavar="URL", help="Kubeflow Pipelines, as the pods reach it.")
@click.option("--namespace", required=True, help="Of the jobs and their runs.")
def render_(file: Path, host: str, namespace: str) -> None:
    """Print the CronJobs of the schedules that Kubeflow cannot keep, for `kubectl apply -f -`."""
    from pipelines.cron_jobs import render
    from pipelines.schedules import read_schedules

    click.echo(render(read_schedules(file), host, namespace), nl=False)


@contextmanager
def _plan(
    file: Path, host: str, namespace: str | None, allow_tag: bool
) -> Iterator[tuple[Server, list[Action], Schedules]]:
    """The plan; inside, the compiled pipelines that it speaks of are there."""
    from pipelines.schedule_plans import plan
    from pipelines.schedule_runs import compile_wanted, list_existing
    from pipelines.schedules import read_schedules

    schedules = read_schedules(file)
    with tempfile.TemporaryDirectory(prefix="graft-") as folder:
        wanted = compile_wanted(schedules, Path(folder), allow_tag=allow_tag)
        server = _connect(host, namespace)
        yield server, plan(wanted, list_existing(server, schedules.project)), schedules


def _print_plan(actions: list[Action], schedules: Schedules) -> None:
    from pipelines.registry_pages import print_table

    rows = [[action.name, action.kind, "\n".join(action.reasons)] for action in actions]
    print_table(f"Schedules of {schedules.project}", ("schedule", "action", "why"), rows)
    for one in schedules.cron_jobbed():
        why = schedules.by_kubernetes(one)
        click.echo(f"{one.name}: a CronJob, by `graft schedule render | kubectl apply -f -`: {why}")


def _connect(host: str, namespace: str | None) -> Server:
    from pipelines.kubeflow import connect

    if not host.startswith(("http://", "https://")):
        raise GraftError(
            f"--host: {host!r} does not begin with http:// or https://", "write the whole address"
        )
    return connect(host, namespace)


COMMANDS = (submit, schedule)
