"""Step: frozen features and a classifier on them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from graft.backbones.classifier import Classifier, save_classifier
from graft.backbones.precision import computing_in, in_words
from graft.backbones.structures import layered, positions
from graft.backbones.trunk import BackboneConfig, Trunk, load_backbone
from graft.errors import GraftError
from graft.files import read_json, whole_folder, write_json
from graft.images.table import ImageTable, read_table
from graft.methods.probe import LabelledFeatures, equal_shares, fit_probe, how_chosen
from graft.params import FeatureExtraction, parse
from graft.progress import say
from graft.steps.stored_features import features_of, open_store
from graft.training.device import best_device
from graft.training.supervised import validation_index


def run(
    *,
    feature_extraction: Mapping[str, Any],
    images: Path,
    views: Path,
    network: Path,
    features: Path,
    probe: Path,
) -> None:
    """See components/feature_extraction.py."""
    params = parse(FeatureExtraction, feature_extraction, "params: feature_extraction")
    with computing_in(params.precision):
        table = read_table(images)
        trunk, config, frame, vectors = extract_share(params, table, views, network)
        write_features(features, frame, vectors)
        _fit(params, table, trunk, config, frame, vectors, probe)


def extract_share(
    params: FeatureExtraction,
    table: ImageTable,
    views: Path,
    network: Path,
    share: slice = slice(None),
) -> tuple[Trunk, BackboneConfig, pd.DataFrame, np.ndarray]:
    """The network as its head wants it, and its features of all images but the test's, and of the views.

    Args:
        params: The section.
        table: Where the images are.
        views: Folder of the views.
        network: Folder of the backbone, whose hash the features are kept under.
        share: As of `stored_features.features_of`, which also says what the frame and the features are.
    """
    trunk, config = read_out(*load_backbone(network), params)
    trunk.to(best_device())
    say(f"features are computed in {in_words(best_device())}")
    index = table.select(split=["train", "val", "unlabeled"])
    store = open_store(params, trunk, config, read_json(network / "backbone.json")["weights_sha256"])
    drawn = views if params.views else None
    return trunk, config, *features_of(table, index, drawn, trunk, config, params, store, share)


def _fit(
    params: FeatureExtraction,
    table: ImageTable,
    trunk: Trunk,
    config: BackboneConfig,
    frame: pd.DataFrame,
    vectors: np.ndarray,
    probe: Path,
) -> None:
    """Fit the head, and store it with its trunk."""
    count = (config.structure or {}).get("positions", 1)
    train = _training_features(frame, vectors, table.target, count)
    val = _validation_features(table, frame, vectors)
    head, path = fit_probe(train, val, len(table.classes), params)
    model = Classifier(trunk.cpu(), head, config=config, classes=table.classes)
    chosen = how_chosen(path, params, len(val.labels))
    extra = {
        "validation_images": len(val.labels),
        "head": params.head,
        "chosen": chosen,
        "computed": in_words(best_device()),
    }
    save_classifier(model, probe, method="probe", extra=extra)
    write_json(probe / "path.json", path)


def read_out(trunk: Trunk, config: BackboneConfig, params: FeatureExtraction) -> tuple[Trunk, BackboneConfig]:
    """The trunk as its head wants it: its output, layers joined, or one layer's positions.

    A dense head takes one map flattened, as the classic flatten-dense-dropout-softmax does, or several
    layers joined; a recurrent head reads one map position by position.

    Raises:
        GraftError: a layer is unknown, the network has no positions, or a recurrent head has several layers.
    """
    layers = params.layers
    if params.head == "recurrent" and len(layers) > 1:
        raise GraftError(
            f"feature_extraction.layers names {len(layers)} layers, but a recurrent head reads one",
            "name one layer, or none for the last one with positions",
        )
    if params.head in ("dense", "recurrent") and len(layers) < 2:
        return positions(trunk, config, layers[0] if layers else None)
    return layered(trunk, config, layers) if layers else (trunk, config)


def write_features(folder: Path, frame: pd.DataFrame, vectors: np.ndarray) -> None:
    """Store features (N, F) with their rows as one Parquet file."""
    table = frame.reset_index(drop=True).assign(features=list(vectors.astype(np.float32)))
    with whole_folder(folder) as temporary:
        table.to_parquet(temporary / "features.parquet", index=False)


def _training_features(
    frame: pd.DataFrame, vectors: np.ndarray, target: str | None, positions: int
) -> LabelledFeatures:
    """Labelled training images and their views, every domain with the same weight in sum."""
    chosen = ((frame["split"] == "train") & (frame["label"] >= 0)).to_numpy()
    rows = frame.loc[chosen]
    domains = rows["domain"]
    tested = (domains == target).to_numpy()
    return LabelledFeatures(
        vectors[chosen],
        rows["label"].to_numpy(dtype=np.int64),
        equal_shares(domains),
        images=pd.factorize(rows["sha256"])[0],
        scored=(rows["view"] == 0).to_numpy() & (tested | ~tested.any()),
        positions=positions,
    )


def _validation_features(table: ImageTable, frame: pd.DataFrame, vectors: np.ndarray) -> LabelledFeatures:
    wanted = set(table.rows.loc[validation_index(table), "sha256"])
    chosen = (frame["sha256"].isin(wanted) & (frame["view"] == 0)).to_numpy()
    labels = frame.loc[chosen, "label"].to_numpy(dtype=np.int64)
    return LabelledFeatures(vectors[chosen], labels, np.ones(len(labels)))
