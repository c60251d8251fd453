"""The command `graft`."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from pathlib import Path

import click

from graft.errors import GraftError
from pipelines.commands_backbones import COMMANDS as BACKBONE_COMMANDS
from pipelines.commands_cluster import COMMANDS as CLUSTER_COMMANDS
from pipelines.commands_compile import COMMANDS as COMPILE_COMMANDS
from pipelines.commands_monitoring import monitor
from pipelines.commands_rate import find_rate
from pipelines.commands_registry import COMMANDS as REGISTRY_COMMANDS
from pipelines.commands_rolling import roll
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
@click.option(
    "--runner", type=click.Choice(["subprocess", "docker"]), default="subprocess", show_default=True
)
@click.option("--image", metavar="NAME", help="Of the containers; else cluster.image or GRAFT_IMAGE.")
def retrain(
    files: tuple[str, ...],
    overrides: tuple[str, ...],
    folder: str,
    runs: Path,
    runner: str,
    image: str | None,
) -> None:
    """Run the whole chain on this machine, in Kubeflow's local runner.

    The steps run as subprocesses, or in containers of an image that `make images` builds.

    Without --params it reads params.yaml; a recipe is laid over it:
    --params params.yaml --params recipes/ants-bees.yaml
    """
    from rich.console import Console

    from graft.params import read_params
    from pipelines.local import retrain as run_chain
    from pipelines.summary import summary_page

    params = read_params(files or ["params.yaml"], overrides)
    if runner == "docker":
        from pipelines.cluster import chosen_image

        image = chosen_image(params, image)
    elif image:
        raise click.UsageError("--image names the containers' image: give --runner docker, too")
    summary = run_chain(params, folder, runs, image=image)
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


for command in (
    *BACKBONE_COMMANDS,
    *COMPILE_COMMANDS,
    *CLUSTER_COMMANDS,
    find_rate,
    tune,
    *REGISTRY_COMMANDS,
    predict,
    export,
    monitor,
    roll,
):
    graft.add_command(command)


def main() -> None:
    """Run the command; a user's fault is one line and its fix, not a traceback."""
    atexit.register(gc.freeze)  # the prompt comes back sooner: see graft/steps/__init__.py
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
