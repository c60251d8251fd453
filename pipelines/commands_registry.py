"""The commands of `graft` about the registry: what is there, what serves, where it came from."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from graft.errors import GraftError
from graft.params import Registry, parse, read_params
from pipelines.registry_pages import (
    model_row,
    print_checks,
    print_facts,
    print_json,
    print_ledger,
    print_move,
    print_table,
    seen_row,
)

F = TypeVar("F", bound=Callable[..., Any])

_json = click.option("--json", "as_json", is_flag=True, help="JSON instead of a table.")


def _where(function: F) -> F:
    """--tracking-uri and --name."""
    uri = click.option("--tracking-uri", help="MLflow; else params.yaml's, MLFLOW_TRACKING_URI or mlflow.db.")
    name = click.option("--name", help="Registered model; else params.yaml's registry.model_name.")
    return uri(name(function))


def _registry(tracking_uri: str | None, name: str | None) -> Registry:
    """params.yaml's section, where there is that file, under what the command line says."""
    section = read_params(["params.yaml"]).registry if Path("params.yaml").is_file() else Registry()
    given = {"tracking_uri": tracking_uri, "model_name": name}
    changes = {key: value for key, value in given.items() if value is not None}
    return parse(Registry, {**section.model_dump(), **changes}, "command line: registry")


@click.command()
@_where
@_json
def models(tracking_uri: str | None, name: str | None, as_json: bool) -> None:
    """List the versions of a registered model: aliases, accuracy, data, age."""
    from graft.registry.versions import list_versions

    params = _registry(tracking_uri, name)
    rows = list_versions(params)
    if as_json:
        return print_json(rows)
    columns = ("version", "aliases", "method", "accuracy", "data", "age", "from")
    return print_table(f"Versions of {params.model_name}", columns, [model_row(row) for row in rows])


@click.command()
@click.argument("version")
@click.option("--reason", default="", help="Kept in the ledger.")
@_where
def promote(version: str, reason: str, tracking_uri: str | None, name: str | None) -> None:
    """Make VERSION champion, past the gate."""
    from graft.registry.promotion import promote as promote_version

    print_move(promote_version(_registry(tracking_uri, name), version, reason))


@click.command()
@click.option("--to", metavar="VERSION", help="Else the champion before this one, by the ledger.")
@click.option("--reason", required=True, help="What was wrong with the champion; kept in the ledger.")
@_where
def rollback(to: str | None, reason: str, tracking_uri: str | None, name: str | None) -> None:
    """Make an earlier version champion again."""
    from graft.registry.promotion import rollback as roll_back

    print_move(roll_back(_registry(tracking_uri, name), reason, to))


@click.command()
@_where
@_json
def history(tracking_uri: str | None, name: str | None, as_json: bool) -> None:
    """Show the ledger: who moved `champion`, when, from where to where, and why."""
    from graft.registry.promotion import history as read_history

    found = read_history(_registry(tracking_uri, name))
    if as_json:
        return print_json(found)
    print_ledger(found)
    return None


@click.command()
@click.option("--model", "reference", metavar="NAME@ALIAS", help="What made it; also models:/NAME/3.")
@click.option("--data", "md5", metavar="MD5", help="Which versions saw it; also the MD5's beginning.")
@_where
@_json
def trace(
    reference: str | None, md5: str | None, tracking_uri: str | None, name: str | None, as_json: bool
) -> None:
    """Trace a model to its data, code, parameters and run, or data to its models."""
    from graft.registry.tracing import trace_data, trace_model

    if (reference is None) == (md5 is None):
        raise GraftError("`graft trace` needs --model or --data, one of them", "e.g. --model digits@champion")
    params = _registry(tracking_uri, name)
    if md5 is not None:
        rows = trace_data(params, md5)
        if as_json:
            return print_json(rows)
        columns = ("model", "version", "aliases", "data", "git commit", "run")
        return print_table(f"Models that saw data {md5}", columns, [seen_row(row) for row in rows])
    facts = trace_model(params, reference or "")
    if as_json:
        return print_json(facts)
    return print_facts(facts)


@click.command("copy")
@click.argument("reference", metavar="NAME@ALIAS")
@click.option("--from", "source", metavar="URI", required=True, help="MLflow that has it.")
@click.option("--to", "destination", metavar="URI", required=True, help="MLflow that gets it.")
def copy_(reference: str, source: str, destination: str) -> None:
    """Copy a version to another MLflow; the alias moves when every file has arrived whole."""
    from graft.registry.copying import copy

    done = copy(_registry(source, None), _registry(destination, None), reference)
    was = "was there already as" if done["reused"] else "is now"
    alias = f", `{done['alias']}`" if done["alias"] else ""
    click.echo(f"{reference} {was} version {done['version']} of {done['name']}{alias}")


@click.command()
@click.argument("reference", metavar="NAME@ALIAS")
@click.option("--images", type=click.Path(path_type=Path), help="Image table; else that of runs/latest.")
@_where
@_json
def verify(
    reference: str,
    images: Path | None,
    tracking_uri: str | None,
    name: str | None,
    as_json: bool,
) -> None:
    """Check a version's hashes and repeat its logged predictions.

    Exits with 1 where one differs, or where --images holds none of the logged images.
    """
    from graft.registry.verifying import verify as verify_version

    result = verify_version(_registry(tracking_uri, name), reference, images or _latest_images())
    if as_json:
        print_json(result)
    else:
        print_checks(result)
    if not result["passed"] or (images and not result["repeated"]):
        sys.exit(1)


COMMANDS = (models, promote, rollback, history, trace, copy_, verify)


def _latest_images() -> Path | None:
    """The image table of the last run on this machine."""
    found = sorted(Path("runs/latest/artifacts").glob("*/data-validation/images/table.json"))
    return found[-1].parent if found else None
