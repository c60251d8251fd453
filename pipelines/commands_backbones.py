"""The commands about backbones: which there are, whether weights are right, which suits the data."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from graft.errors import GraftError

if TYPE_CHECKING:
    from graft.methods.ranking import Ranked
    from graft.params import Backbone

_MEANING = """\
LogME: log of the evidence, per image and class, that a linear layer on the frozen features explains the
labels (You et al. 2021). H-score: how much of the features' variance lies between the classes, at most
classes - 1 (Bao et al. 2019; covariance shrunk as in Ibrahim et al. 2022). Higher is better in both;
compare only within this table. They foretell the order of linear probes well, of fine-tuning roughly."""


@click.command()
@click.option("--search", metavar="TEXT", help="Names that hold this; timm's too. * stands for any letters.")
def backbones(search: str | None) -> None:
    """List what `backbone.name` may be: size, input, features and published weights.

    Parameters are counted without the head. Without --search: our own networks and torchvision's.
    """
    from graft.backbones.listing import list_backbones

    rows, further = list_backbones(search)
    if not rows:
        raise GraftError(f"no architecture has {search!r} in its name", "search for a shorter text")
    columns = ("name", "parameters (M)", "input (px)", "features", "weights")
    cells = [
        [row.name, f"{row.parameters / 1e6:.2f}", str(row.input_size), str(row.num_features),
         ", ".join(row.weights) or "random only"]
        for row in rows
    ]  # fmt: skip
    _print(columns, cells)
    if further:
        click.echo(f"... and {further} more of timm match: give --search a longer text")
    if search is None:
        click.echo("timm has over a thousand more: graft backbones --search darknet")


@click.command("verify-backbone")
@click.argument("name")
@click.option(
    "--images", required=True, type=click.Path(path_type=Path), help="Folder or .zip of photographs."
)
@click.option("--weights", default="DEFAULT", show_default=True, metavar="FILE|NAME", help="Also s3://.")
@click.option("--sha256", metavar="HEX", help="What the file's sha256 begins with.")
def verify_backbone(name: str, images: Path, weights: str, sha256: str | None) -> None:
    """Measure NAME's ImageNet top-1 and top-5 accuracy with its own 1000-class head.

    The name of each image, or of its folder, begins with its WordNet id, as in n01440764_tench.jpg.
    """
    from graft.backbones.verifying import top_k
    from graft.training.device import best_device

    result = top_k(name, weights, images, sha256=sha256, device=best_device())
    facts = result["preprocessing"]
    click.echo(f"{name}, {weights}" + (f" (sha256 {result['sha256'][:12]})" if result["sha256"] else ""))
    click.echo(
        f"{result['n']} photographs, short side to {facts['resize_size']}, centre {facts['input_size']} px, "
        f"{facts['interpolation']}"
        + (f"; {result['left_out']} without a WordNet id of ImageNet-1k left out" * bool(result["left_out"]))
    )
    for k in (1, 5):
        share, low, high = (100 * result[f"top{k}{end}"] for end in ("", "_low", "_high"))
        click.echo(f"top-{k}: {share:.1f} %  (95 % interval {low:.1f} to {high:.1f})")


@click.command()
@click.option("--data", "folder", default="data", show_default=True, type=click.Path(path_type=Path))
@click.option(
    "--backbones",
    "named",
    required=True,
    multiple=True,
    metavar="NAME[=WEIGHTS],...",
    help="Weights: a published name, a file, s3:// or random. By default DEFAULT.",
)
def rank(folder: Path, named: tuple[str, ...]) -> None:
    """Rank backbones by how well their frozen features fit the labels of the data; nothing is trained.

    Only labelled training images count, of the target domain where there are two.
    """
    from graft.files import remove
    from graft.images.table import read_table
    from graft.images.validation import validate
    from graft.methods.ranking import rank as rank_backbones
    from graft.params import Data, read_params

    chosen = parse_backbones(named)
    data = read_params(["params.yaml"]).data if Path("params.yaml").is_file() else Data()
    docs = Path(tempfile.mkdtemp(prefix="graft-data-"))  # stays where the data is refused: it says why
    with tempfile.TemporaryDirectory(prefix="graft-rank-") as work:
        validate(folder, data, Path(work) / "images", docs)
        remove(docs)
        ranked = rank_backbones(read_table(Path(work) / "images"), chosen)
    _print_ranking(ranked)
    if all(each.problem for each in ranked):
        raise click.exceptions.Exit(1)


COMMANDS = (backbones, verify_backbone, rank)


def parse_backbones(named: Sequence[str]) -> list[Backbone]:
    """Parameters of "NAME[=WEIGHTS]", several of them separated by commas.

    Raises:
        GraftError: one has no name.
    """
    from graft.params import Backbone, parse

    found = []
    for text in ",".join(named).split(","):
        name, _, weights = (part.strip() for part in text.partition("="))
        if not name:
            raise GraftError(f"--backbones: {text!r} has no name", "write NAME or NAME=WEIGHTS, with commas")
        own = name in ("digits_cnn", "resnet20")
        values = {"name": name, "weights": weights or ("random" if own else "DEFAULT")}
        found.append(parse(Backbone, values, "command line: backbones"))
    return found


def _print_ranking(ranked: Sequence[Ranked]) -> None:
    columns = ("backbone", "weights", "features", "LogME", "H-score", "seconds")
    _print(
        columns,
        [
            [each.name, each.weights, str(each.num_features), f"{each.log_me:.4f}", f"{each.h_score:.3f}",
             f"{each.seconds:.1f}"]
            for each in ranked
            if each.problem is None
        ],
    )  # fmt: skip
    for each in ranked:
        if each.problem is not None:
            click.echo(f"{each.name} ({each.weights}) could not be ranked: {each.problem}")
    click.echo(_MEANING)


def _print(columns: tuple[str, ...], rows: list[list[Any]]) -> None:
    """A table on a terminal; elsewhere lines that nothing folds, for grep and the like."""
    from pipelines.registry_pages import print_table

    if sys.stdout.isatty():
        print_table("", columns, rows)
        return
    widths = [max(len(line[column]) for line in (columns, *rows)) for column in range(len(columns))]
    for line in (columns, *rows):
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
