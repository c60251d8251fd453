"""The command `graft`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from graft.errors import GraftError
from pipelines.commands_backbones import COMMANDS as BACKBONE_COMMANDS
from pipelines.commands_monitoring import monitor
from pipelines.commands_rate import find_rate
from pipelines.commands_registry import COMMANDS as REGISTRY_COMMANDS
from pipelines.commands_serving import export, predict
from pipelines.commands_tuning import tune

_params = click.option(
    "--params", "files", multiple=True, type=click.Path(), help="params.yaml and overlays; later ones win."
)
_set = click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="One override.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="graft")
def graft() -> None:
    """Retrain image classifiers by transfer learning."""


@graft.command()
@_params
@_set
@click.option("--data", "folder", default="data", show_default=True, help="Data folder.")
@click.option("--runs", default="runs", show_default=True, type=click.Path(path_type=Path))
def retrain(files: tuple[str, ...], overrides: tuple[str, ...], folder: str, runs: Path) -> None:
    """Run the whole chain on this machine, in Kubeflow's local runner.

    Without --params it reads params.yaml; a recipe is laid over it:
    --params params.yaml --params recipes/ants-bees.yaml
    """
    from rich.console import Console

    from graft.params import read_params
    from pipelines.local import retrain as run_chain
    from pipelines.summary import summary_page

    summary = run_chain(read_params(files or ["params.yaml"], overrides), folder, runs)
    Console().print(summary_page(summary, runs / "latest"), soft_wrap=True)


@graft.command("import")
@click.argument("source")
@click.argument("destination", type=click.Path(path_type=Path))
@click.option("--root", type=click.Path(path_type=Path), help="Where torchvision's data sets are kept.")
def import_(source: str, destination: Path, root: Path | None) -> None:
    """Write a data folder from SOURCE.

    SOURCE is `digits`, a folder, a zip or tar archive, Parquet as Hugging Face writes it, or a data set
    of torchvision such as torchvision:CIFAR10.
    """
    from graft.images.importing import import_data

    summary = import_data(source, destination, root=root)
    for note in summary["notes"]:
        click.echo(note)
    if not summary["unchanged"]:
        click.echo(f"{destination}: {summary['files']} files")
    for domain, splits in summary["counts"].items():
        for split, classes in splits.items():
            named = "/".join(part for part in (domain, split) if part) or "images"
            labelled = "unlabelled" if set(classes) == {""} else f"{len(classes)} classes"
            click.echo(f"  {named}: {sum(classes.values())} images, {labelled}")


@graft.command("compile")
@click.option("-o", "--output", default="retraining.yaml", show_default=True, type=click.Path(path_type=Path))
@_params
@_set
def compile_(output: Path, files: tuple[str, ...], overrides: tuple[str, ...]) -> None:
    """Write the pipeline for a cluster, with params.yaml as its default parameters."""
    from graft.params import read_params
    from pipelines.compiling import compile_pipeline

    compile_pipeline(output, read_params(files or ["params.yaml"], overrides))
    click.echo(f"{output}: submit it to Kubeflow Pipelines, or check it in")


for command in (*BACKBONE_COMMANDS, find_rate, tune, *REGISTRY_COMMANDS, predict, export, monitor):
    graft.add_command(command)


def main() -> None:
    """Run the command; a user's fault is one line and its fix, not a traceback."""
    try:
        graft(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted; run the same command again to go on where it stopped", err=True)
        sys.exit(130)
    except BrokenPipeError:  # as in `graft predict ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except GraftError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
