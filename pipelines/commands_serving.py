"""The commands that use a trained classifier: `graft predict` and `graft export`."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from graft.backbones.classifier import Classifier
    from graft.serving.predicting import Prediction

_tracking_uri = click.option(
    "--tracking-uri",
    metavar="URI",
    help="MLflow of a models:/ address; else MLFLOW_TRACKING_URI, else mlflow.db here.",
)


@click.command()
@click.argument("model")
@click.argument("images", nargs=-1, required=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="A file .csv or .parquet.")
@click.option("--top-k", default=3, show_default=True, type=click.IntRange(min=1), help="Classes in `top`.")
@click.option("--batch-size", default=64, show_default=True, type=click.IntRange(min=1))
@click.option(
    "--explain",
    "explained",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Write one picture per image there: where the network looked.",
)
@_tracking_uri
def predict(
    model: str,
    images: tuple[str, ...],
    output: Path | None,
    top_k: int,
    batch_size: int,
    explained: Path | None,
    tracking_uri: str | None,
) -> None:
    """Classify IMAGES: files, folders (at any depth) and quoted patterns such as 'new/**/*.jpg'.

    MODEL is a classifier's folder, models:/name@alias or models:/name/version. The answer has a row per
    image: path, label, probability, top (JSON) and error. A broken image has an error in its row; the
    others get their answer. Without -o the answer is CSV on the standard output.
    """
    from graft.backbones.explanations import last_map
    from graft.progress import say
    from graft.serving.finding import find_images
    from graft.serving.predicting import predict as classify
    from graft.serving.tables import table
    from graft.training.device import best_device

    rows = table(output, sys.stdout)  # a wrong name is refused before the work
    paths = find_images(images)
    classifier = open_classifier(model, tracking_uri).to(best_device())
    if explained is not None:
        last_map(classifier)  # so is a network that cannot be explained
    done = broken = 0
    with rows as write:
        for batch in classify(classifier, paths, top_k=top_k, batch_size=batch_size):
            write(batch)
            if explained is not None:
                _explain(classifier, batch, explained, first=done + 1)
            done += len(batch)
            broken += sum(each.error is not None for each in batch)
    say(f"{done} images, {broken} of them with an error" + (f"; see {output}" if output else ""))


@click.command()
@click.argument("model")
@click.option(
    "--format",
    "format_name",
    required=True,
    type=click.Choice(["onnx", "openvino", "torch-export"]),
)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option(
    "--images",
    multiple=True,
    metavar="IMAGES",
    help="File, folder or pattern: compare on its first 32 images instead of on noise.",
)
@_tracking_uri
def export(
    model: str, format_name: str, output: Path, images: tuple[str, ...], tracking_uri: str | None
) -> None:
    """Write MODEL in another program's format, checked against the original.

    MODEL is a classifier's folder, models:/name@alias or models:/name/version. Beside the model stands
    export.json: classes, preprocessing, the largest difference of a probability, latency and sizes.
    """
    from graft.backbones.inputs import stack_pixels
    from graft.serving.exporting import export as write
    from graft.serving.finding import find_images

    classifier = open_classifier(model, tracking_uri)
    chosen = find_images(images)[:32] if images else None
    pixels = stack_pixels(chosen, classifier.config.preprocessing) if chosen else None
    record = write(classifier, format_name, output, pixels=pixels)
    check, latency = record["check"], record["latency"]
    size = sum(file["bytes"] for file in record["files"].values())
    click.echo(f"{output}: {', '.join(record['files'])}, {size / 1e6:.1f} MB")
    click.echo(f"largest difference of a probability on {check['images']} images: "
               f"{check['max_difference']:.2g} ({check['tolerance']:g} is allowed)")  # fmt: skip
    click.echo(
        f"one image: {latency['exported_ms']:.1f} ms, the original {latency['original_ms']:.1f} ms "
        f"(medians of {latency['rounds']}, in turn)"
    )


def open_classifier(model: str, tracking_uri: str | None) -> Classifier:
    """The classifier of a folder or of a registered version, on the CPU.

    Args:
        model: A folder, models:/name@alias or models:/name/version.
        tracking_uri: MLflow's, for the latter; by default MLFLOW_TRACKING_URI's.

    Raises:
        GraftError: there is none, or MLflow does not answer.
    """
    from graft.backbones.classifier import load_classifier
    from graft.registry.downloading import download

    if not model.startswith("models:/"):
        return load_classifier(model)
    with tempfile.TemporaryDirectory(prefix="graft-model-") as folder:
        return load_classifier(download(model, tracking_uri, Path(folder)))


def _explain(classifier: Classifier, batch: Sequence[Prediction], folder: Path, *, first: int) -> None:
    """One picture per answered image, named after its row (counted from 1) and its file."""
    from graft.backbones.explanations import save_explanations

    rows = [(number, each) for number, each in enumerate(batch, first) if each.pixels is not None]
    save_explanations(
        classifier,
        [each.pixels for _, each in rows if each.pixels is not None],
        [folder / f"{number:06d}-{each.path.stem[:100]}.png" for number, each in rows],
        [f"{each.label} {each.probability:.1%}" for _, each in rows],
    )
