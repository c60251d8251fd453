"""The command `graft monitor`."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from graft.errors import GraftError

LATEST = Path("runs/latest")


@click.command("monitor")
@click.argument("new_images", type=click.Path(path_type=Path))
@click.option(
    "--model", default=str(LATEST / "winner"), show_default=True, metavar="FOLDER|models:/NAME@ALIAS"
)
@click.option(
    "--images",
    type=click.Path(path_type=Path),
    help="Image table the model was trained on.  [default: the one of runs/latest]",
)
@click.option(
    "-o",
    "--output",
    default="monitor",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder of the two files.",
)
@click.option(
    "--alpha",
    default=0.01,
    show_default=True,
    type=click.FloatRange(0.001, 0.5),
    help="Chance of a false alarm.",
)
@click.option(
    "--max-drop",
    default=0.05,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Fall of the accuracy allowed, as a share.",
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
def monitor(
    new_images: Path,
    model: str,
    images: Path | None,
    output: Path,
    alpha: float,
    max_drop: float,
    seed: int,
) -> None:
    """Compare the folder NEW_IMAGES (no labels needed) with the data the model was trained for.

    Two tests in the model's feature space say whether the images have changed; the model's confidence
    says what accuracy to expect. Writes monitor.json and monitor.html.

    \b
    Exit codes, for a scheduler:
      0  fine      nothing has changed, as far as the images show
      3  drifted   the images differ from that data; the predicted accuracy holds
      4  retrain   the predicted accuracy is more than --max-drop below the measured one
      1  error     such as too few images; 2 for a wrong option
    """
    from graft.backbones.classifier import load_classifier
    from graft.images.table import read_table
    from graft.monitoring.monitor import monitor as compare
    from graft.monitoring.page import check_output, summary, write_findings

    check_output(output, new_images)
    table = read_table(images or latest_table(LATEST))
    with _model_folder(model) as folder:
        classifier = load_classifier(folder)
    findings = compare(classifier, table, new_images, alpha=alpha, max_drop=max_drop, seed=seed)
    record = write_findings(findings, output, model=model)
    click.echo(summary(record))
    click.echo(f"  page       {output / 'monitor.html'}")
    sys.exit(record["exit_code"])


def latest_table(run: Path) -> Path:
    """The image table that a run made.

    Raises:
        GraftError: there is no such run, or it did not come so far.
    """
    found = sorted((run / "artifacts").glob("*/data-validation/images/table.json"))
    if not found:
        raise GraftError(f"{run} holds no image table", "run `graft retrain` first, or give --images")
    return found[-1].parent


@contextmanager
def _model_folder(model: str) -> Iterator[Path]:
    """The folder of a classifier; one of the registry is fetched, and deleted afterwards."""
    if not model.startswith("models:/"):
        yield Path(model)
        return
    with tempfile.TemporaryDirectory(prefix="graft-monitor-") as folder:
        yield _fetch(model, Path(folder))


def _fetch(model: str, folder: Path) -> Path:
    from graft.params import Registry
    from graft.registry.tracking import answering, is_new, reach, shown, tracking_uri, using

    uri = tracking_uri(Registry())
    fix = "give models:/NAME@champion or models:/NAME/VERSION; MLFLOW_TRACKING_URI says on which server"
    if is_new(uri):
        raise GraftError(f"--model: {model} cannot be fetched: {shown(uri)} holds no models", fix)
    reach(uri)
    import mlflow

    with using(uri), answering(uri, f"fetch {model}"):
        try:
            mlflow.artifacts.download_artifacts(artifact_uri=model, dst_path=str(folder))
        except OSError as error:
            raise GraftError(f"--model: {model} cannot be fetched from {shown(uri)}: {error}", fix) from error
    for description in sorted(folder.rglob("model.json")):
        if (description.parent / "weights.safetensors").is_file():
            return description.parent
    raise GraftError(f"--model: {model} holds no model.json with weights.safetensors", fix)
