"""The command `graft find-rate`."""

from __future__ import annotations

import os
from pathlib import Path

import click
import yaml

from graft.errors import GraftError


@click.command("find-rate")
@click.option(
    "--params", "files", multiple=True, type=click.Path(), help="params.yaml and overlays; later ones win."
)
@click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="One override.")
@click.option("--data", default="data", show_default=True, type=click.Path(path_type=Path))
@click.option("--runs", default="runs", show_default=True, type=click.Path(path_type=Path))
@click.option("--steps", default=60, show_default=True, type=click.IntRange(10), help="Of the search.")
@click.option(
    "-o", "--output", default="learning-rate.svg", show_default=True, type=click.Path(path_type=Path)
)
def find_rate(
    files: tuple[str, ...],
    overrides: tuple[str, ...],
    data: Path,
    runs: Path,
    steps: int,
    output: Path,
) -> None:
    """Find a learning rate for fine-tuning all layers, from one short run whose rate grows.

    The chain runs up to the probe, from which fine-tuning starts; nothing is trained for good.
    """
    from graft.params import read_params
    from graft.training.rate_finder import picture
    from pipelines.rate import search_rate

    if not data.is_dir():
        raise GraftError(f"there is no data folder {data}", "run graft import, or give --data")
    params = read_params(files or ["params.yaml"], overrides)
    os.environ.setdefault("GRAFT_HOME", ".graft")  # the steps before are reused
    folder = runs / "find-rate"
    folder.mkdir(parents=True, exist_ok=True)
    written = folder / "params.yaml"
    written.write_text(yaml.safe_dump(params.sections()), encoding="utf-8")
    found = search_rate(params, written, data.absolute(), folder, steps)
    click.echo(f"the loss falls fastest at a rate of {found.suggestion:.1e}; see {picture(found, output)}")
    click.echo(f"graft retrain --set fine_tuning.learning_rate={found.suggestion:.1e}")
