"""Every method of domain adaptation on the same images, beside what people use today.

    python benchmarks/adaptation.py --shared ../shared    # what is missing in adaptation.jsonl
    python benchmarks/adaptation.py --table > benchmarks/adaptation.md

Labelled source images, target images with few labels or none, and the target's test images (see
adaptation_data.py). A network is trained on the source alone ("source only"), once for each data, network
and seed, and every method starts from it. "target oracle" is the same training on the target's labels.
All draw from the augmentation of their `Setting`. Where that has `fourier`, all see the source in the
target's style but source only, the oracle, and what says "unstyled"; "styled" is with `fourier: 0.1`.

Of each run: the test accuracy of its last epoch, of the state that graft chooses without a label, of the
best state by the test labels (nobody can choose so; it tells what the choice costs), and of the state that
each validator alone would choose. Start a second process when the first has said "datasets ready". A run
that was killed is begun again once its file in FOLDER/claims is deleted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, get_args

import adaptation_peers
import torch
from adaptation_data import load
from adaptation_table import page

from graft.adaptation import adapt
from graft.backbones.classifier import Classifier, load_classifier, save_classifier
from graft.backbones.descriptions import read_model_json
from graft.backbones.trunk import build
from graft.errors import GraftError
from graft.files import whole_folder
from graft.images.augmentation import Policy, policy
from graft.images.loading import Images, load_images
from graft.images.preprocessing import Preprocessing
from graft.images.table import ImageTable
from graft.methods import train
from graft.params import Augmentation, DomainAdaptation, FineTuning
from graft.training.device import best_device

RESULTS = Path(__file__).with_name("adaptation.jsonl")
SOURCE, ORACLE = "source only", "target oracle"
METHODS = [name for name in get_args(DomainAdaptation.model_fields["method"].annotation) if name != "none"]
FOURIER = {"styled": 0.1, "unstyled": 0.0}  # what a method's name may end in, in place of the setting's
PEERS = adaptation_peers.peers()


@dataclass(frozen=True)
class Setting:
    """How a network learns one pair of domains, by whatever method.

    Rates of adaptation fall to a sixth: where 0.003 is given their mean is 0.001, the peers' constant rate.

    Attributes:
        epochs: Of source only and of the oracle.
    """

    augmentation: Augmentation
    adaptation: DomainAdaptation
    epochs: int
    methods: tuple[str, ...]


# White digits on black, and digits of any colour on photographs: so light and dark change places.
INVERTED = Augmentation(
    crop_scale=(1, 1), crop_ratio=(1, 1), rotate=0, scale=(1, 1), brightness=0, contrast=0, saturation=0,
    hue=0, mixup=0, invert=0.5,
)  # fmt: skip
SETTINGS = {
    # The paper's network, compared where the paper compares.
    ("mnist-10000", "dann_cnn"): Setting(
        INVERTED,
        DomainAdaptation(epochs=4, batch_size=32, learning_rate=3e-3, layer="flatten", fourier=0.25),
        epochs=6,
        methods=(*METHODS, "dann, unstyled", *PEERS),
    ),
    # A stronger one.
    ("mnist-10000", "digits_cnn"): Setting(
        INVERTED,
        DomainAdaptation(epochs=6, learning_rate=3e-3, fourier=0.25),
        epochs=6,
        methods=("dann", "mcc", "self_training"),
    ),
    # graft's default data, everything as in params.yaml.
    ("digits", "digits_cnn"): Setting(
        Augmentation(), DomainAdaptation(), epochs=20, methods=(*METHODS, "self_training, styled")
    ),
}


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    data: str
    network: str
    method: str

    @property
    def setting(self) -> Setting:
        """Of its data and network."""
        return SETTINGS[self.data, self.network]


def cases() -> list[Case]:
    """In the order of the table."""
    return [
        Case(data, network, method)
        for (data, network), setting in SETTINGS.items()
        for method in (SOURCE, *setting.methods, ORACLE)
    ]


def run(case: Case, shared: Path, folder: Path, seed: int) -> dict[str, Any]:
    """What is measured: accuracies (of 1), and CPU seconds of this method's own training."""
    table, known = load(case.data, shared, folder)
    examine = examiner(table)
    if case.method == ORACLE:
        start = time.process_time()
        accuracy = examine(from_scratch(case, table, "target", seed))
        return {"last": accuracy, "seconds": time.process_time() - start}
    model, seconds = kept_start(case, table, folder, seed)
    if case.method == SOURCE:
        return {"last": examine(model), "seconds": seconds}
    params = case.setting.adaptation.model_copy(update={"seed": seed})
    drawn = policy(case.setting.augmentation, model.config.preprocessing)
    if case.method in PEERS:
        start = time.process_time()
        PEERS[case.method](known, model, drawn, params)
        seconds = time.process_time() - start
        return {"last": examine(model), "seconds": seconds}
    method, _, style = case.method.partition(", ")
    own: dict[str, Any] = {"method": method}
    if style:
        own["fourier"] = FOURIER[style]
    return adapted(known, model, drawn, params.model_copy(update=own), examine)


def adapted(
    table: ImageTable,
    model: Classifier,
    drawn: Policy,
    params: DomainAdaptation,
    examine: Callable[[Classifier], float],
) -> dict[str, Any]:
    """The last, the chosen and the best state of one of graft's methods, and each validator's choice."""
    watched: list[float] = []

    def watch(model: Classifier) -> dict[str, float]:
        start = time.process_time()
        accuracy = examine(model)
        watched.append(time.process_time() - start)
        return {"test_accuracy": accuracy}

    start = time.process_time()
    with tempfile.TemporaryDirectory() as work:
        try:
            given = adapt(table, model, drawn, params, work=Path(work), watch=watch)
        except GraftError as error:
            return {"skipped": error.problem}
    seconds = time.process_time() - start - sum(watched)
    states = [round(state["test_accuracy"], 5) for state in given.account["states"]]
    return {
        "last": states[-1],
        "label_free": examine(given.model),
        "best": max(states),
        "each": {name: states[number] for name, number in given.account["each"].items()},
        "chosen": given.account["chosen"],
        "states": states,
        "seconds": seconds,
    }


def kept_start(case: Case, table: ImageTable, folder: Path, seed: int) -> tuple[Classifier, float]:
    """The network trained on the source alone and the CPU seconds it took, made once for all methods."""
    kept = folder / "starts" / f"{case.data} {case.network} {seed}"
    if not kept.exists():
        start = time.process_time()
        made = from_scratch(case, table, "source", seed)
        seconds = time.process_time() - start
        with whole_folder(kept) as temporary:
            save_classifier(made, temporary, method="scratch", extra={"seconds": seconds})
    return load_classifier(kept).to(best_device()), read_model_json(kept)["seconds"]


def from_scratch(case: Case, table: ImageTable, domain: str, seed: int) -> Classifier:
    """Trained on all labelled images of one domain; its validation images choose the epoch."""
    rows = table.rows.assign(split=table.rows["split"].where(table.rows["domain"] == domain, "unused"))
    table = replace(table, rows=rows)
    trunk, config = build(case.network)
    head = torch.nn.Linear(config.num_features, len(table.classes))
    shape = Classifier(trunk, head, config=config, classes=table.classes)
    params = FineTuning(method="scratch", baseline_epochs=case.setting.epochs, seed=seed)
    drawn = policy(case.setting.augmentation, config.preprocessing)
    with tempfile.TemporaryDirectory() as work:
        return train(table, shape, drawn, params, work=Path(work))[0]


def examiner(table: ImageTable) -> Callable[[Classifier], float]:
    """Gives a classifier's accuracy on the target's test images, which are decoded once."""

    @cache
    def images(preprocessing: Preprocessing) -> Images:
        return load_images(table, table.select(split="test", domain="target"), preprocessing)

    def examine(model: Classifier) -> float:
        test = images(model.config.preprocessing)
        right = model.predict_pixels(test.pixels).argmax(1) == test.labels.numpy()
        return float(right.mean())

    return examine


def missing(wanted: Sequence[Case], seeds: int, folder: Path) -> Iterator[tuple[int, Case]]:
    """What nobody has begun yet: starts first, then seed by seed, so that an early end leaves whole seeds."""
    done = {(row["data"], row["network"], row["method"], row["seed"]) for row in results()}
    claims = folder / "claims"
    claims.mkdir(parents=True, exist_ok=True)
    runs = [(seed, case) for seed in range(seeds) for case in wanted]
    for seed, case in sorted(runs, key=lambda run: run[1].method != SOURCE):
        name = f"{case.data} {case.network} {case.method} {seed}"
        if (case.data, case.network, case.method, seed) not in done:
            with contextlib.suppress(FileExistsError):
                (claims / name).touch(exist_ok=False)
                yield seed, case


def results() -> list[dict[str, Any]]:
    """One row a run: data, network, method, seed, and what `run` gave."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def matching(wanted: Sequence[Case], name: str, text: str) -> list[Case]:
    """The cases whose data, network or method is this text; if there is none, those where it begins so."""
    exact = [case for case in wanted if getattr(case, name) == text]
    return exact or [case for case in wanted if getattr(case, name).startswith(text)]


def options() -> argparse.Namespace:
    """From the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "graft-adaptation")
    parser.add_argument("--data", default="", help="mnist-10000 or digits, or how it begins")
    parser.add_argument("--network", default="", help="dann_cnn or digits_cnn, or how it begins")
    parser.add_argument("--method", default="", help="one method, or how several begin: peer, cdan")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--table", action="store_true")
    return parser.parse_args()


def main() -> None:
    """Run what is missing, or print the table."""
    given = options()
    if given.table:
        order = dict.fromkeys(case.method for case in cases() if case.method != ORACLE)
        print(page(results(), [*order, ORACLE]), end="")
        return
    wanted = cases()
    for name in ("data", "network", "method"):
        wanted = matching(wanted, name, getattr(given, name))
    absent = sorted({case.method for case in wanted if adaptation_peers.absent(case.method)})
    if absent:
        print(f"left out, not installed (see adaptation_peers.py): {'; '.join(absent)}", flush=True)
    wanted = [case for case in wanted if case.method not in absent]
    for data in dict.fromkeys(case.data for case in wanted):
        load(data, given.shared.resolve(), given.folder)
    print("datasets ready", flush=True)
    for seed, case in missing(wanted, given.seeds, given.folder):
        found = run(case, given.shared.resolve(), given.folder, seed)
        row = {**vars(case), "seed": seed, **found}
        with RESULTS.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(row, flush=True)


if __name__ == "__main__":
    main()
