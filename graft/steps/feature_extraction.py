"""Step: frozen features and a linear probe on them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from graft.backbones.classifier import Classifier, save_classifier
from graft.backbones.features import extract
from graft.backbones.trunk import load_backbone
from graft.files import whole_folder, write_json
from graft.images.decoding import load_images
from graft.images.table import ImageTable, read_table
from graft.images.views import load_view_pixels
from graft.methods.probe import LabelledFeatures, fit_probe
from graft.params import FeatureExtraction, parse
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
    table = read_table(images)
    trunk, config = load_backbone(network)
    trunk.to(best_device())

    index = table.select(split=["train", "val", "unlabeled"])
    loaded = load_images(table, index, config.preprocessing)
    frame = loaded.rows[["sha256", "domain", "split"]].assign(label=loaded.labels.numpy(), view=0)
    vectors = extract(trunk, config, loaded.pixels, params.batch_size, what="features of images").numpy()
    if params.views:
        pixels, view_rows = load_view_pixels(views, config.preprocessing)
        if len(pixels):
            extracted = extract(trunk, config, pixels, params.batch_size, what="features of views")
            vectors = np.concatenate([vectors, extracted.numpy()])
            columns = ["sha256", "domain", "split", "label", "view"]
            frame = pd.concat([frame, view_rows[columns]], ignore_index=True)
    write_features(features, frame, vectors)

    train, val = _training_features(frame, vectors), _validation_features(table, frame, vectors)
    head, path = fit_probe(train, val, len(table.classes), params)
    model = Classifier(trunk.cpu(), head, config=config, classes=table.classes)
    save_classifier(model, probe, method="probe", extra={"validation_images": len(val.labels)})
    write_json(probe / "path.json", path)


def write_features(folder: Path, frame: pd.DataFrame, vectors: np.ndarray) -> None:
    """Store features (N, F) with their rows as one Parquet file."""
    table = frame.reset_index(drop=True).assign(features=list(vectors.astype(np.float32)))
    with whole_folder(folder) as temporary:
        table.to_parquet(temporary / "features.parquet", index=False)


def _training_features(frame: pd.DataFrame, vectors: np.ndarray) -> LabelledFeatures:
    """Labelled training images and their views, every domain with the same weight in sum."""
    chosen = ((frame["split"] == "train") & (frame["label"] >= 0)).to_numpy()
    domains = frame.loc[chosen, "domain"]
    weights = 1.0 / domains.map(domains.value_counts()).to_numpy(dtype=float)
    labels = frame.loc[chosen, "label"].to_numpy(dtype=np.int64)
    return LabelledFeatures(vectors[chosen], labels, weights * len(weights) / domains.nunique())


def _validation_features(table: ImageTable, frame: pd.DataFrame, vectors: np.ndarray) -> LabelledFeatures:
    wanted = set(table.rows.loc[validation_index(table), "sha256"])
    chosen = (frame["sha256"].isin(wanted) & (frame["view"] == 0)).to_numpy()
    labels = frame.loc[chosen, "label"].to_numpy(dtype=np.int64)
    return LabelledFeatures(vectors[chosen], labels, np.ones(len(labels)))
