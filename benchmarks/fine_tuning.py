"""Fine-tuning to the same accuracy on ants and bees: graft, fastai and the loop of PyTorch's tutorial.

    python benchmarks/fine_tuning.py --shared ../shared > benchmarks/fine_tuning.md
    python benchmarks/fine_tuning.py --shared ../shared --network resnet18 >> benchmarks/fine_tuning.md

MobileNetV2 with ImageNet weights: graft checks the files and makes its image table, computes features, fits
a probe and trains the last three stages; fastai runs `fine_tune`, three epochs in all as graft's. The
tutorial's loop may look at the test images after each epoch, as it does, and ends when it is as good as
graft was with the same seed, at the latest after 12 of its 25 epochs: its time is then a lower bound.
ResNet-18 with random weights: two epochs of all layers each, for time alone; and of graft with the last three
stages, as it is used for MobileNetV2.

Each run is a process of its own; wall time is of the process, imports included. The ways take turns, in an
order that is drawn for each repetition, graft first where the tutorial must know its accuracy.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import peers
import torch
from chain import machine, run
from methods import AUGMENTATION, WEIGHTS, accuracy_on_test, make_folder, without_validation

from graft.backbones.classifier import Classifier
from graft.backbones.features import extract
from graft.backbones.trunk import build
from graft.backbones.weights import prepare
from graft.images.augmentation import policy
from graft.images.loading import load_images
from graft.images.table import ImageTable, read_table
from graft.images.validation import validate
from graft.methods import train
from graft.methods.probe import LabelledFeatures, equal_shares, fit_probe
from graft.params import Backbone, Data, FeatureExtraction, FineTuning

TUTORIAL = 12  # epochs at most, of its 25
TUNED: dict[str, Any] = {
    "method": "last_k",
    "last": 3,
    "learning_rate": 2e-4,
    "label_smoothing": 0.0,
    "epochs": 3,
}
EPOCHS = 2  # of ResNet-18
WAYS = {
    "graft": "graft",
    "stages": "graft, the last three stages",
    "fastai": "fastai `fine_tune`",
    "tutorial": "PyTorch tutorial",
}
Row = dict[str, Any]


def with_graft(folder: Path, network: str, weights: Path | None, seed: int, *, stages: bool) -> float:
    """From the files to the accuracy on the test images."""
    with tempfile.TemporaryDirectory() as work:
        table = image_table(folder, Path(work))
        if weights:
            model, given = probe(table, network, weights), TUNED
        else:
            trunk, config = build(network)
            head = torch.nn.Linear(config.num_features, len(table.classes))
            model = Classifier(trunk, head, config=config, classes=table.classes)
            given = {"method": "last_k", "last": 3} if stages else {"method": "all"}
            given["epochs"] = EPOCHS
        params = FineTuning.model_validate({**given, "seed": seed})
        model, _ = train(
            table, model, policy(AUGMENTATION, model.config.preprocessing), params, work=Path(work)
        )
        return accuracy_on_test(model, table)


def image_table(folder: Path, work: Path) -> ImageTable:
    """Of all photographs that are not for the test: none validates, as for the other ways."""
    validate(folder, Data(), work / "table", work / "docs")
    return without_validation(read_table(work / "table"))


def probe(table: ImageTable, network: str, weights: Path) -> Classifier:
    """Logistic regression on the frozen features of the training images."""
    trunk, config = prepare(Backbone(name=network, weights=str(weights)))
    images = load_images(table, table.select(split="train"), config.preprocessing)
    vectors = extract(trunk, config, images.pixels, 32, engine="auto").numpy()
    known = LabelledFeatures(vectors, images.labels.numpy(), equal_shares(images.rows["domain"]))
    none = LabelledFeatures(vectors[:0], np.zeros(0, np.int64), np.zeros(0))
    head, _ = fit_probe(known, none, len(table.classes), FeatureExtraction())
    return Classifier(trunk, head, config=config, classes=table.classes)


def one(way: str, folder: Path, network: str, weights: Path | None, seed: int, enough: float) -> Row:
    """A run in this process: its accuracy, and of the tutorial how many epochs it took."""
    if way in ("graft", "stages"):
        return {"accuracy": with_graft(folder, network, weights, seed, stages=way == "stages")}
    if way == "fastai":
        epochs = 3 if weights else EPOCHS
        return {
            "accuracy": peers.fastai_fine_tune(folder, weights, epochs=epochs, seed=seed, network=network)
        }
    epochs, best = 0, 0.0
    longest = TUTORIAL if weights else EPOCHS
    for model in peers.tutorial_epochs(folder, weights, epochs=longest, seed=seed, network=network):
        epochs += 1
        best = max(best, peers.accuracy_on_test(model, folder))
        if best >= enough:
            break
    return {"accuracy": best, "epochs": epochs}


def measured(way: str, folder: Path, network: str, weights: Path | None, seed: int, enough: float) -> Row:
    """The same in a process of its own, which shares no file with another, and its wall time."""
    with tempfile.TemporaryDirectory() as home:
        command = [sys.executable, __file__, "--one", way, "--folder", str(folder), "--network", network]
        command += ["--weights", str(weights)] if weights else []
        command += ["--seed", str(seed), "--enough", str(enough)]
        start = time.monotonic()
        done = run(command, Path.cwd(), GRAFT_HOME=home)
        seconds = time.monotonic() - start
    return {**json.loads(done.stdout.splitlines()[-1]), "seconds": seconds}


def turns(folder: Path, network: str, weights: Path | None, repetitions: int) -> dict[str, list[Row]]:
    """Every way with every seed."""
    ways = [way for way in WAYS if way != "stages" or not weights]
    found: dict[str, list[Row]] = {way: [] for way in ways}
    for seed in range(repetitions):
        order = random.Random(seed).sample(ways, len(ways))
        if weights:
            order = sorted(order, key=lambda way: way == "tutorial")
        for way in order:
            enough = found["graft"][seed]["accuracy"] if way == "tutorial" and weights else 2.0
            found[way].append(measured(way, folder, network, weights, seed, enough))
            print(network, seed, way, found[way][-1], file=sys.stderr, flush=True)
    return found


def section(title: str, found: dict[str, list[Row]], *, accuracies: bool) -> str:
    """A table: medians, and the ratio to graft of the same seed."""
    heads = ["way", "wall s", "times graft's"] + ["accuracy % (lowest to highest)"] * accuracies
    runs = f"{machine()}. {len(found['graft'])} repetitions in turns; medians.\n"
    lines = [f"## {title}\n", runs, f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for way, rows in found.items():
        ratios = [row["seconds"] / own["seconds"] for row, own in zip(rows, found["graft"], strict=True)]
        cells = [WAYS[way], f"{median(row['seconds'] for row in rows):.0f}", f"{median(ratios):.1f}"]
        if accuracies:
            each = sorted(100 * row["accuracy"] for row in rows)
            cells.append(f"{median(each):.1f} ({each[0]:.1f} to {each[-1]:.1f})")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def reached(found: dict[str, list[Row]]) -> str:
    """How often the tutorial came to graft's accuracy, and when."""
    pairs = list(zip(found["tutorial"], found["graft"], strict=True))
    epochs = [row["epochs"] for row, own in pairs if row["accuracy"] >= own["accuracy"]]
    when = f", after {min(epochs)} to {max(epochs)} epochs" if epochs else ""
    return f"The tutorial's loop came to graft's accuracy in {len(epochs)} of {len(pairs)} runs{when}.\n"


def options() -> argparse.Namespace:
    """From the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--one", choices=list(WAYS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--network", choices=["mobilenet_v2", "resnet18"], default="mobilenet_v2")
    parser.add_argument("--weights", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--enough", type=float, default=2.0, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure in turns, and print the tables."""
    given = options()
    if given.one:
        own = (given.folder, given.network, given.weights, given.seed, given.enough)
        print(json.dumps(one(given.one, *own)))
        return
    shared = given.shared.resolve()
    weights = shared / "weights" / WEIGHTS["mobilenet_v2"]
    with tempfile.TemporaryDirectory() as place:
        make_folder("ants-bees", shared, Path(place))
        used = weights if given.network == "mobilenet_v2" else None
        found = turns(Path(place) / "ants-bees", given.network, used, given.repetitions)
    print(
        "# Fine-tuning on ants and bees\n" if used else "",
        section("MobileNetV2 with ImageNet weights", found, accuracies=True)
        if used
        else section("ResNet-18, two epochs from random weights", found, accuracies=False),
        reached(found) if used else "",
        sep="\n",
        end="",
    )


if __name__ == "__main__":
    main()
