"""Fine-tuning to the same accuracy on ants and bees: graft, fastai and the loop of PyTorch's tutorial.

    python benchmarks/fine_tuning.py --shared ../shared > benchmarks/fine_tuning.md
    python benchmarks/fine_tuning.py --shared ../shared --job resnet18 >> benchmarks/fine_tuning.md
    python benchmarks/fine_tuning.py --shared ../shared --job epochs >> benchmarks/fine_tuning.md

`mobilenet_v2`, with ImageNet weights: graft checks the files and makes its image table, computes features,
fits a probe and trains the last three stages; fastai runs `fine_tune`, three epochs in all as graft's. The
tutorial's loop may look at the test images after each epoch, as it does, and ends when it is as good as
graft was with the same seed, at the latest after 12 of its 25 epochs: its time is then a lower bound.
`resnet18`: the same work with random weights, for time alone; the tutorial's loop does its 12 epochs.
`epochs`: what an epoch costs, whatever one needs of them: all layers of ResNet-18, two epochs each.

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
from dataclasses import dataclass
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

TUNED: dict[str, Any] = {
    "method": "last_k",
    "last": 3,
    "learning_rate": 2e-4,
    "label_smoothing": 0.0,
    "epochs": 3,
}


@dataclass(frozen=True)
class Job:
    """What is trained, and for how many epochs."""

    title: str
    network: str
    pretrained: bool  # with random weights there is no accuracy to compare
    tuned: dict[str, Any]  # graft's settings
    fastai: int
    tutorial: int  # at most; it has 25
    note: str = ""


FOR_TIME = """\
For time alone: the weights are random, so no accuracy says how many epochs ResNet-18 would need; each
way does what it does for MobileNetV2 above, where 12 epochs of the tutorial's loop were not enough. What
an epoch costs, however many it takes, is in the next table.
"""
ALL_LAYERS = {"method": "all", "epochs": 2}
JOBS = {
    "mobilenet_v2": Job("MobileNetV2 with ImageNet weights", "mobilenet_v2", True, TUNED, 3, 12),
    "resnet18": Job(
        "ResNet-18, the same work with random weights", "resnet18", False, TUNED, 3, 12, FOR_TIME
    ),
    "epochs": Job("ResNet-18, two epochs of all layers", "resnet18", False, ALL_LAYERS, 2, 2),
}
WAYS = {"graft": "graft", "fastai": "fastai `fine_tune`", "tutorial": "PyTorch tutorial"}
Row = dict[str, Any]


def with_graft(folder: Path, job: Job, weights: Path | None, seed: int) -> float:
    """From the files to the accuracy on the test images."""
    with tempfile.TemporaryDirectory() as work:
        table = image_table(folder, Path(work))
        model = probe(table, job, weights) if job.tuned is TUNED else untrained(table, job)
        params = FineTuning.model_validate({**job.tuned, "seed": seed})
        model, _ = train(
            table, model, policy(AUGMENTATION, model.config.preprocessing), params, work=Path(work)
        )
        return accuracy_on_test(model, table)


def image_table(folder: Path, work: Path) -> ImageTable:
    """Of all photographs that are not for the test: none validates, as for the other ways."""
    validate(folder, Data(), work / "table", work / "docs")
    return without_validation(read_table(work / "table"))


def probe(table: ImageTable, job: Job, weights: Path | None) -> Classifier:
    """Logistic regression on the frozen features of the training images."""
    trunk, config = prepare(Backbone(name=job.network, weights=str(weights or "random")))
    images = load_images(table, table.select(split="train"), config.preprocessing)
    vectors = extract(trunk, config, images.pixels, 32, engine="auto").numpy()
    known = LabelledFeatures(vectors, images.labels.numpy(), equal_shares(images.rows["domain"]))
    none = LabelledFeatures(vectors[:0], np.zeros(0, np.int64), np.zeros(0))
    head, _ = fit_probe(known, none, len(table.classes), FeatureExtraction())
    return Classifier(trunk, head, config=config, classes=table.classes)


def untrained(table: ImageTable, job: Job) -> Classifier:
    """Random weights throughout."""
    trunk, config = build(job.network)
    head = torch.nn.Linear(config.num_features, len(table.classes))
    return Classifier(trunk, head, config=config, classes=table.classes)


def one(way: str, folder: Path, job: Job, weights: Path | None, seed: int, enough: float) -> Row:
    """A run in this process: its accuracy, and of the tutorial how many epochs it took."""
    if way == "graft":
        return {"accuracy": with_graft(folder, job, weights, seed)}
    if way == "fastai":
        found = peers.fastai_fine_tune(folder, weights, epochs=job.fastai, seed=seed, network=job.network)
        return {"accuracy": found}
    epochs, best = 0, 0.0
    for model in peers.tutorial_epochs(folder, weights, epochs=job.tutorial, seed=seed, network=job.network):
        epochs += 1
        best = max(best, peers.accuracy_on_test(model, folder))
        if best >= enough:
            break
    return {"accuracy": best, "epochs": epochs}


def measured(way: str, folder: Path, job: str, shared: Path, seed: int, enough: float) -> Row:
    """The same in a process of its own, which shares no file with another, and its wall time."""
    with tempfile.TemporaryDirectory() as home:
        command = [sys.executable, __file__, "--one", way, "--folder", str(folder), "--job", job]
        command += ["--shared", str(shared), "--seed", str(seed), "--enough", str(enough)]
        start = time.monotonic()
        done = run(command, Path.cwd(), GRAFT_HOME=home)
        seconds = time.monotonic() - start
    return {**json.loads(done.stdout.splitlines()[-1]), "seconds": seconds}


def turns(folder: Path, job: str, shared: Path, repetitions: int) -> dict[str, list[Row]]:
    """Every way with every seed."""
    pretrained = JOBS[job].pretrained
    found: dict[str, list[Row]] = {way: [] for way in WAYS}
    for seed in range(repetitions):
        order = random.Random(seed).sample(list(WAYS), len(WAYS))
        if pretrained:
            order = sorted(order, key=lambda way: way == "tutorial")
        for way in order:
            enough = found["graft"][seed]["accuracy"] if way == "tutorial" and pretrained else 2.0
            found[way].append(measured(way, folder, job, shared, seed, enough))
            print(job, seed, way, found[way][-1], file=sys.stderr, flush=True)
    return found


def section(job: Job, found: dict[str, list[Row]]) -> str:
    """A table: medians, and the ratio to graft of the same seed."""
    heads = ["way", "wall s", "times graft's"] + ["accuracy % (lowest to highest)"] * job.pretrained
    runs = f"{machine()}. {len(found['graft'])} repetitions in turns; medians.\n"
    lines = [f"## {job.title}\n", runs, f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for way, rows in found.items():
        ratios = [row["seconds"] / own["seconds"] for row, own in zip(rows, found["graft"], strict=True)]
        cells = [WAYS[way], f"{median(row['seconds'] for row in rows):.0f}", f"{median(ratios):.1f}"]
        if job.pretrained:
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
    parser.add_argument("--job", choices=list(JOBS), default="mobilenet_v2")
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--enough", type=float, default=2.0, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure in turns, and print the tables."""
    given = options()
    shared = given.shared.resolve()
    job = JOBS[given.job]
    if given.one:
        weights = shared / "weights" / WEIGHTS[job.network] if job.pretrained else None
        print(json.dumps(one(given.one, given.folder, job, weights, given.seed, given.enough)))
        return
    with tempfile.TemporaryDirectory() as place:
        make_folder("ants-bees", shared, Path(place))
        found = turns(Path(place) / "ants-bees", given.job, shared, given.repetitions)
    if job.pretrained:
        print("# Fine-tuning on ants and bees\n")
    print(section(job, found))
    if job.note:
        print(job.note)
    if job.pretrained:
        print(reached(found))


if __name__ == "__main__":
    main()
