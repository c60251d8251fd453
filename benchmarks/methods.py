"""Every transfer method on the same photographs, beside what people use today.

    python benchmarks/methods.py --shared ../shared     # what is missing in methods.jsonl; once its data
                                                        # folders are made, several may run at once
    python benchmarks/methods.py --table > benchmarks/methods.md

MobileNetV2 with ImageNet weights. "ants-bees": 244 photographs to learn from, the set's own 153 others
to test on, no validation images: nothing chooses an epoch, the last one counts, and strengths come from
cross-validation. "imagenette-N": N training photographs of each of ten classes, 500 to test on.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import peers
import torch
from methods_table import page

from graft.backbones.classifier import Classifier, load_classifier, save_classifier
from graft.backbones.descriptions import read_model_json
from graft.backbones.features import extract
from graft.backbones.trunk import BackboneConfig, Trunk
from graft.backbones.weights import prepare
from graft.images.augmentation import augment, policy
from graft.images.importing import import_data
from graft.images.loading import Images, load_images
from graft.images.table import ImageTable, read_table
from graft.images.validation import validate
from graft.methods import train
from graft.methods.probe import LabelledFeatures, equal_shares, fit_probe
from graft.params import Augmentation, Backbone, Data, FeatureExtraction, FineTuning
from graft.steps.feature_extraction import read_out

RESULTS = Path(__file__).with_name("methods.jsonl")
EPOCHS = 3  # of every method and every peer in all: graft's and fastai's first one is the head's alone
WEIGHTS = {
    "mobilenet_v2": "mobilenet_v2-imagenet-qnnpack-dequant.pth",
    "squeezenet1_1": "squeezenet1_1-imagenet-forresti.pth",
}
# As recipes/ants-bees.yaml has it.
AUGMENTATION = Augmentation(
    crop_scale=(0.5, 1.0), crop_ratio=(0.75, 1.33), rotate=0, scale=(1, 1), flip_horizontal=0.5
)
VIEWS = 2


@dataclass(frozen=True)
class Case:
    """One row of the table: `probe` alone where `method` is empty."""

    method: dict[str, Any] = field(default_factory=dict)
    probe: dict[str, Any] = field(default_factory=dict)
    peer: Callable[..., float] | None = None
    data: str = "ants-bees"
    seeds: int = 5


def cases(shared: Path) -> dict[str, Case]:
    """By name, in the order of the table."""
    second = {"name": "squeezenet1_1", "weights": str(shared / "weights" / WEIGHTS["squeezenet1_1"])}
    base = {"method": "head_then_all"}
    found = {
        "probe: logistic regression": Case(),
        "probe: linear SVM": Case(probe={"head": "svm"}),
        "probe: 20 nearest neighbours": Case(probe={"head": "neighbours"}),
        "probe: dense head on the flattened map": Case(probe={"head": "dense"}),
        "probe: GRU over the map's positions": Case(probe={"head": "recurrent"}),
        "probe: logistic on three layers": Case(
            probe={"layers": ("features.16", "features.17", "features.18")}
        ),
        "combine: with SqueezeNet, frozen": Case({"method": "combine", "combine": {"networks": [second]}}),
        "fine_tune: head_only": Case({"method": "head_only"}),
        "fine_tune: last_k, 3 stages": Case({"method": "last_k", "last": 3}),
        # The best of a small grid on halves of the training photographs alone.
        "fine_tune: last_k, 3 stages, learning_rate 0.0002, label_smoothing 0": Case(
            {"method": "last_k", "last": 3, "learning_rate": 2e-4, "label_smoothing": 0.0}
        ),
        "fine_tune: normalisation": Case({"method": "normalisation"}),
        "fine_tune: all": Case({"method": "all"}),
        "fine_tune: head_then_all": Case(base),
        "fine_tune: head_then_all, layer_decay 0.8": Case({**base, "layer_decay": 0.8}),
        "fine_tune: head_then_all, l2_sp 0.01": Case({**base, "l2_sp": 0.01}),
        "fine_tune: head_then_all, ema 0.98": Case({**base, "ema": 0.98}),
        "fine_tune: head_then_all, interpolation 0.5": Case({**base, "interpolation": 0.5}),
        "fine_tune: head_then_all, one_cycle": Case({**base, "schedule": "one_cycle"}),
        "fine_tune: gradual": Case({"method": "gradual"}),
        "fine_tune: staged, last block anew": Case(
            {"method": "staged", "stages": {"-1": "reinitialise", "-2": "reinitialise"}}
        ),
        "hybrid: residual blocks": Case({"method": "hybrid"}),
        "hybrid: inception blocks": Case({"method": "hybrid", "hybrid": {"blocks": "inception"}}),
        "combine: with SqueezeNet, joint": Case(
            {"method": "combine", "combine": {"networks": [second], "joint": True}}
        ),
        "multi_task: with ten other classes": Case({"method": "multi_task"}, data="ants-bees + imagenette"),
        "distill: to SqueezeNet": Case({"method": "distill", "distill": {"student": second}}),
        "scratch": Case({"method": "scratch", "baseline_epochs": EPOCHS}),
        "fastai: fine_tune": Case(peer=peers.fastai_fine_tune),
        "PyTorch tutorial: fixed features": Case(peer=lambda *a, **k: peers.tutorial(*a, **k, fixed=True)),
        "PyTorch tutorial: fine-tuning": Case(peer=peers.tutorial),
    }
    # What the rule chooses, so that few images are shown more often.
    rule: dict[str, Any] = {**base, "epochs": None, "head_epochs": None}
    for count, seeds in ((5, 3), (10, 2), (100, 1)):
        data = f"imagenette-{count}"
        found |= {
            f"{data} probe: logistic regression": Case(data=data, seeds=seeds),
            f"{data} fine_tune: head_then_all": Case(rule, data=data, seeds=seeds),
            f"{data} scratch": Case({"method": "scratch", "baseline_epochs": 10}, data=data, seeds=seeds),
        }
    found["imagenette-5 semi_supervised: the other images unlabelled"] = Case(
        {"method": "semi_supervised", "epochs": 1, "semi_supervised": {"ratio": 2}},
        data="imagenette-5",
        seeds=1,
    )
    return found


def run(case: Case, shared: Path, folder: Path, seed: int) -> tuple[float, float]:
    """Accuracy on the test images, and seconds of training (features and decoding included)."""
    weights = shared / "weights" / WEIGHTS["mobilenet_v2"]
    if case.peer:
        start = time.monotonic()
        return case.peer(folder / case.data, weights, epochs=EPOCHS, seed=seed), time.monotonic() - start
    table = load(case.data, shared, folder, seed)
    model, before = kept_probe(table, weights, case, folder, seed)
    start = time.monotonic()
    if case.method:
        given = {"epochs": EPOCHS - 1, "head_epochs": 1, "seed": seed, **case.method}
        if given["method"] in ("head_only", "last_k", "all", "normalisation", "staged", "hybrid"):
            given["epochs"] = EPOCHS if given["epochs"] == EPOCHS - 1 else given["epochs"]
        drawn = policy(AUGMENTATION, model.config.preprocessing)
        with tempfile.TemporaryDirectory() as work:
            model, _ = train(table, model, drawn, FineTuning.model_validate(given), work=Path(work))
    seconds = before + time.monotonic() - start
    return accuracy_on_test(model, table), seconds


def accuracy_on_test(model: Classifier, table: ImageTable) -> float:
    """Of 1, on the test images, of the target where there are two domains."""
    test = load_images(table, table.select(split="test", domain=table.target), model.config.preprocessing)
    answers = model.predictor(len(test))(test.pixels)  # as evaluation asks it
    return float((answers.argmax(1) == test.labels.numpy()).mean())


def kept_probe(
    table: ImageTable, weights: Path, case: Case, folder: Path, seed: int
) -> tuple[Classifier, float]:
    """What `probe` gives and the seconds it took, made once for all methods that start from it."""
    name = "-".join(str(part) for values in case.probe.values() for part in np.atleast_1d(values))
    kept = folder / "probes" / f"{case.data} {name} {seed}"
    if not (kept / "model.json").exists():
        start = time.monotonic()
        made = probe(table, weights, FeatureExtraction(**case.probe, seed=seed), seed)
        save_classifier(made, kept, method="probe", extra={"seconds": time.monotonic() - start})
    return load_classifier(kept), read_model_json(kept)["seconds"]


def probe(table: ImageTable, weights: Path, params: FeatureExtraction, seed: int) -> Classifier:
    """The classifier on frozen features of the training images and two views of each."""
    trunk, config, images, vectors = features(table, weights, params.layers, params.head, seed)
    count, copies = len(images), VIEWS + 1
    shares = equal_shares(images.rows["domain"])
    train_features = LabelledFeatures(
        vectors,
        np.tile(images.labels.numpy(), copies),
        np.tile(shares, copies),
        images=np.tile(np.arange(count), copies),
        scored=np.arange(count * copies) < count,
        positions=(config.structure or {}).get("positions", 1),
    )
    none = LabelledFeatures(vectors[:0], np.zeros(0, np.int64), np.zeros(0))
    head, _ = fit_probe(train_features, none, len(table.classes), params)
    return Classifier(trunk, head, config=config, classes=table.classes)


_KEPT: dict[Any, tuple[Trunk, BackboneConfig, Images, np.ndarray]] = {}


def features(
    table: ImageTable, weights: Path, layers: tuple[str, ...], head: str, seed: int
) -> tuple[Trunk, BackboneConfig, Images, np.ndarray]:
    """Frozen features of the labelled training images, then of each view; the last ones are kept."""
    kind = head if head in ("dense", "recurrent") else "pooled"
    key = (table.path, len(table.select(split="train")), layers, kind, seed)
    if key not in _KEPT:
        params = FeatureExtraction(head=head, layers=layers)
        trunk, config = read_out(*prepare(Backbone(name="mobilenet_v2", weights=str(weights))), params)
        index = table.select(split="train")
        labelled = index[table.rows.loc[index, "label"].to_numpy() >= 0]
        images = load_images(table, labelled, config.preprocessing)
        drawn = policy(AUGMENTATION, config.preprocessing)
        pixels = [images.pixels, *(_view(images, drawn, seed * VIEWS + view) for view in range(VIEWS))]
        vectors = np.concatenate([extract(trunk, config, each, 32).numpy() for each in pixels])
        _KEPT.clear()
        _KEPT[key] = trunk, config, images, vectors
    return _KEPT[key]


def _view(images: Images, drawn: Any, seed: int) -> torch.Tensor:
    """Augmented copies at the stored size, so that they are cropped like any other image."""
    size = images.pixels.shape[-1]
    whole = replace(drawn, preprocessing=replace(drawn.preprocessing, input_size=size, resize_size=size))
    return augment(whole, images.pixels, seed=seed)


def load(data: str, shared: Path, folder: Path, seed: int) -> ImageTable:
    """The image table, every image that is not for the test in training; `seed` draws which N it has."""
    images = folder / f"{data.partition('-')[0] if data.startswith('imagenette-') else data} table"
    if not images.exists():
        print(f"making the data folder {images.name.removesuffix(' table')}", flush=True)
        make_folder(data, shared, folder)
        validate(folder / images.name.removesuffix(" table"), Data(), images, folder / "docs")
    table = without_validation(read_table(images))
    if data.startswith("imagenette-"):
        return replace(table, rows=_few(table.rows, int(data.rpartition("-")[2]), seed))
    return table


def without_validation(table: ImageTable) -> ImageTable:
    """Every image that is not for the test is in training."""
    rows = table.rows.assign(split=table.rows["split"].astype(str).replace("val", "train"))
    return replace(table, rows=rows)


def _few(rows: pd.DataFrame, count: int, seed: int) -> pd.DataFrame:
    """`count` labelled training images of each class; the others lose their label."""
    training = rows[rows["split"] == "train"].sample(frac=1, random_state=seed)
    kept = training.groupby("label").head(count).index
    others = training.index.difference(kept)
    rows.loc[others, ["split", "label"]] = ["unlabeled", -1]
    return rows


def make_folder(data: str, shared: Path, folder: Path) -> None:
    """The data folder of a case; peers read it too, from `train` and `test`."""
    if data.startswith("imagenette"):
        import_data(str(shared / "data" / "imagenette_1500.zip"), folder / "imagenette")
        (folder / "imagenette" / "val").rename(folder / "imagenette" / "test")
    elif data == "ants-bees":
        import_data(str(shared / "data" / "hymenoptera_256.zip"), folder / data)
        (folder / data / "val").rename(folder / data / "test")
    else:
        for name in ("imagenette", "ants-bees"):
            if not (folder / name).exists():
                make_folder(name, shared, folder)
        for path in sorted((folder / "ants-bees").glob("*/*/*")):
            _join(path, folder / data / "target")
        for each in sorted((folder / "imagenette" / "train").iterdir()):
            # As many of all other classes together as there are ants and bees.
            for path in sorted(each.iterdir())[:24]:
                _join(path, folder / data / "source")
        # A source must know the target's classes: it gets a few of their images.
        for each in sorted((folder / data / "target" / "train").iterdir()):
            for path in sorted(each.iterdir())[:4]:
                _join(path, folder / data / "source")
                path.unlink()


def _join(path: Path, domain: Path) -> None:
    """Link a file of a data folder with one domain into one with two."""
    inside = domain / path.parent.parent.name / path.parent.name
    inside.mkdir(parents=True, exist_ok=True)
    (inside / path.name).hardlink_to(path)


def missing(known: dict[str, Case], folder: Path) -> Iterator[tuple[int, str]]:
    """What nobody has begun yet: seed by seed, so that an early end leaves whole seeds."""
    done = {(row["case"], row["seed"]) for row in results()}
    claims = folder / "claims"
    claims.mkdir(parents=True, exist_ok=True)
    for seed in range(max(case.seeds for case in known.values())):
        for name, case in known.items():
            if seed < case.seeds and (name, seed) not in done:
                with contextlib.suppress(FileExistsError):
                    (claims / f"{name.replace('/', '')} {seed}").touch(exist_ok=False)
                    yield seed, name


def results() -> list[dict[str, Any]]:
    """One row a run: case, seed, accuracy, seconds."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def main() -> None:
    """Run what is missing, or print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "graft-methods")
    parser.add_argument("--data", default="", help="cases whose data begins so, such as imagenette")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    known = cases(options.shared.resolve())
    if options.table:
        print(page(results(), list(known)), end="")
        return
    wanted = {name: case for name, case in known.items() if case.data.startswith(options.data)}
    for seed, name in missing(wanted, options.folder):
        accuracy, seconds = run(known[name], options.shared.resolve(), options.folder, seed)
        row = {"case": name, "seed": seed, "accuracy": round(accuracy, 5), "seconds": round(seconds, 1)}
        with RESULTS.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(row, flush=True)


if __name__ == "__main__":
    main()
