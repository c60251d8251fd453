"""Backbones compared on the user's images before anything is trained."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graft.backbones.features import extract
from graft.backbones.transferability import h_score, log_me
from graft.backbones.weights import prepare
from graft.errors import GraftError
from graft.images.loading import load_images
from graft.images.table import ImageTable
from graft.params import Backbone
from graft.training.device import best_device
from graft.training.supervised import labelled_index


@dataclass(frozen=True)
class Ranked:
    """One backbone's scores, or why it has none.

    Attributes:
        name, weights: Of the backbone.
        seconds: What it took: weights, decoding, features and scores.
        num_features: F; 0 where there is a problem.
        log_me, h_score: See graft.backbones.transferability; nan where there is a problem.
        problem: Why there are no scores, with what to do.
    """

    name: str
    weights: str
    seconds: float
    num_features: int = 0
    log_me: float = float("nan")
    h_score: float = float("nan")
    problem: str | None = None


def rank(table: ImageTable, backbones: Sequence[Backbone], *, batch_size: int = 64) -> list[Ranked]:
    """Score each backbone's frozen features of the labelled training images; best LogME first.

    Where there are two domains, of the target's images: what they tell apart is what counts. Backbones
    that cannot be had come last, with their problem.

    Args:
        table: The images.
        backbones: Which networks, with which weights.
        batch_size: Images at a time.

    Raises:
        GraftError: fewer than two classes have labelled training images.
    """
    labels = table.rows.loc[labelled_index(table, "train", table.target), "label"]
    if labels.nunique() < 2:
        where = f"domain {table.target}" if table.target else "data"
        raise GraftError(
            f"the {where} has labelled training images of {labels.nunique()} class; ranking needs two",
            "label images of every class and put them in train",
        )
    ranked = [_rank_one(table, backbone, batch_size) for backbone in backbones]
    return sorted(ranked, key=lambda each: (each.problem is not None, -np.nan_to_num(each.log_me)))


def _rank_one(table: ImageTable, backbone: Backbone, batch_size: int) -> Ranked:
    start = time.monotonic()
    try:
        features, labels = _features(table, backbone, batch_size)
    except GraftError as error:
        return Ranked(backbone.name, backbone.weights, time.monotonic() - start, problem=str(error))
    scores = log_me(features, labels), h_score(features, labels)
    seconds = time.monotonic() - start
    return Ranked(backbone.name, backbone.weights, seconds, features.shape[1], *scores)


def _features(table: ImageTable, backbone: Backbone, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, F) and labels (N,)."""
    if backbone.weights == "pretrain":
        raise GraftError(
            f"{backbone.name}: `pretrain` trains first, and ranking trains nothing",
            "give random, a name of the library, or a file",
        )
    trunk, config = prepare(backbone)
    loaded = load_images(table, labelled_index(table, "train", table.target), config.preprocessing)
    trunk.to(best_device())
    features = extract(trunk, config, loaded.pixels, batch_size, backbone.name, engine="auto").numpy()
    if not np.isfinite(features).all():
        raise GraftError(f"{backbone.name}: its features are not finite", "check its weights")
    return features, loaded.labels.numpy()
