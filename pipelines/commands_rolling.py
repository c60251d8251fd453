"""`graft roll`: what serves on a cluster follows the registry."""

from __future__ import annotations

import click


@click.command()
@click.option("--model", required=True, help="Registered model.")
@click.option("--alias", default="champion", show_default=True)
@click.option("--inference-service", "service", default="champion", show_default=True)
@click.option("--namespace", default="graft", show_default=True)
@click.option(
    "--artifacts",
    metavar="S3",
    envvar="MLFLOW_ARTIFACTS_DESTINATION",
    help="What MLflow's server has as --artifacts-destination; else MLFLOW_ARTIFACTS_DESTINATION.",
)
@click.option("--api", metavar="URL", help="Of `kubectl proxy`; else the cluster that this pod runs in.")
def roll(
    model: str, alias: str, service: str, namespace: str, artifacts: str | None, api: str | None
) -> None:
    """Let KServe serve the version that an alias points to.

    Looks once and changes nothing where it is so already; on a cluster a CronJob calls it.
    """
    from graft.params import Registry, parse
    from pipelines.rolling import Cluster, target, this_cluster
    from pipelines.rolling import roll as roll_service

    params = parse(Registry, {"model_name": model}, "command line: registry")
    cluster = Cluster(api) if api else this_cluster()
    done = roll_service(cluster, namespace, service, target(params, alias, artifacts))
    if done["moved"]:
        click.echo(
            f"{namespace}/{service}: version {done['from'] or 'none'} -> {done['to']}, {done['address']}"
        )
    else:
        click.echo(f"{namespace}/{service}: serves version {done['to']} of {model} already")
