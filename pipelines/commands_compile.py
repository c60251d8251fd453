"""The commands about what would run: the pipeline for a cluster, and why a step would run again."""

from __future__ import annotations

from pathlib import Path

import click

_params = click.option(
    "--params", "files", multiple=True, type=click.Path(), help="params.yaml and overlays; later ones win."
)
_set = click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="One override.")


@click.command("compile")
@click.option("-o", "--output", default="retraining.yaml", show_default=True, type=click.Path(path_type=Path))
@_params
@_set
@click.option("--image", metavar="NAME@sha256:...", help="Of every step; else cluster.image or GRAFT_IMAGE.")
@click.option("--allow-tag", is_flag=True, help="Take an image without digest; Kubeflow's cache is then off.")
@click.option(
    "--data", "folder", metavar="ADDRESS", help="Default of the data; with an md5 it can be cached."
)
def compile_(
    output: Path,
    files: tuple[str, ...],
    overrides: tuple[str, ...],
    image: str | None,
    allow_tag: bool,
    folder: str | None,
) -> None:
    """Write the pipeline for a cluster, with params.yaml as its default parameters.

    Section `cluster` of params.yaml says what each step gets: image, processors, memory, GPUs, storage,
    credentials, time and retries. It is no parameter of the pipeline.
    """
    from graft.params import read_params
    from pipelines.cluster import chosen_image, require_digest
    from pipelines.compiling import compile_pipeline
    from pipelines.submitting import data_address

    params = read_params(files or ["params.yaml"], overrides)
    named = chosen_image(params, image)
    if not allow_tag:
        require_digest(named)
    spec = compile_pipeline(output, params, image=named, folder=data_address(folder) if folder else None)
    tasks = spec["root"]["dag"]["tasks"].items()
    caching = [name for name, task in tasks if task["cachingOptions"].get("enableCache")]
    click.echo(f"{output}: submit it to Kubeflow Pipelines, or check it in")
    click.echo(f"Kubeflow's cache: {', '.join(sorted(caching)) or 'off'}")


@click.command("explain-cache")
@click.option("--run", default="runs/latest", show_default=True, type=click.Path(path_type=Path))
@_params
@_set
@click.option("--data", "folder", default="data", show_default=True, help="Data folder or address.")
def explain_cache(run: Path, files: tuple[str, ...], overrides: tuple[str, ...], folder: str) -> None:
    """Say step by step whether `graft retrain` would run it, and what changed since RUN.

    Give --params, --set and --data as you would to `graft retrain`. Nothing runs.
    """
    from graft.params import read_params
    from pipelines.explaining import explain

    for verdict in explain(run, read_params(files or ["params.yaml"], overrides), folder):
        first, *further = verdict.reasons
        click.echo(f"{verdict.step:<19} {verdict.outcome:<8} {first}")
        for reason in further:
            click.echo(f"{'':<28} {reason}")


COMMANDS = (compile_, explain_cache)
