"""Classifiers on frozen features: one function and one signature each."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from graft.backbones.heads import Head
from graft.params import FeatureExtraction

Rows = list[dict[str, Any]]

FOLDS = 5


@dataclass(frozen=True)
class LabelledFeatures:
    """Features with what is known of them.

    Attributes:
        features: float32 (N, F).
        labels: int64 (N,), in [0, C).
        weights: float64 (N,), how much each row counts.
        images: int64 (N,), equal for the views of one image; None where each row is an image of its own.
        scored: bool (N,), whether cross-validation judges by the row, as by no augmented view; None: all.
        positions: P, where a row is the features of P positions one after the other.
    """

    features: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    images: np.ndarray | None = None
    scored: np.ndarray | None = None
    positions: int = 1


def equal_shares(domains: pd.Series) -> np.ndarray:
    """Weights (N,) of mean 1 that give every domain the same weight in sum, however few its rows."""
    weights = 1.0 / domains.map(domains.value_counts()).to_numpy(dtype=float)
    shares: np.ndarray = weights * len(weights) / domains.nunique()
    return shares


Probe = Callable[[LabelledFeatures, LabelledFeatures, int, FeatureExtraction], tuple[Head, Rows]]

# feature_extraction.head: the module here, and the function in it.
_PROBES = {
    "logistic": ("logistic", "logistic"),
    "svm": ("svm", "svm"),
    "neighbours": ("neighbours", "neighbours"),
    "dense": ("trained_heads", "dense"),
    "recurrent": ("trained_heads", "recurrent"),
}


def fit_probe(
    train: LabelledFeatures, val: LabelledFeatures, classes: int, params: FeatureExtraction
) -> tuple[Head, Rows]:
    """Fit the head that `params.head` names.

    Args:
        train: Features to learn from.
        val: Features that choose the strength or the epoch. Where there are none, strengths are chosen
            by cross-validation on `train`, and the last epoch is kept.
        classes: C; one without training images is never predicted by a linear head.
        params: The section.

    Returns:
        The head (F -> C), and one row for each strength or epoch, with val_accuracy and val_loss where
        something was judged.
    """
    module, name = _PROBES[params.head]
    probe: Probe = getattr(importlib.import_module(f"graft.methods.{module}"), name)
    return probe(train, val, classes, params)


def how_chosen(rows: Rows, params: FeatureExtraction, validation_images: int) -> str:
    """What the choice among the rows rested on, for people."""
    if params.head == "neighbours":
        return f"{params.neighbours} neighbours, as set"
    if "C" not in rows[0]:
        return "the epoch with the best validation accuracy" if validation_images else "the last epoch"
    best = best_row(rows)
    by = "validation accuracy" if validation_images else f"{FOLDS}-fold cross-validation on training images"
    return f"C = {best['C']:.3g} of {len(rows)} strengths, by {by}"


def best_row(rows: Rows) -> dict[str, Any]:
    """That of the strength which a linear probe chose."""
    return max(rows, key=lambda row: (row["val_accuracy"], -row["val_loss"]))


def score(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Accuracy, and mean cross-entropy in nats, of logits (N, C)."""
    shifted = logits - logits.max(1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return {
        "val_accuracy": float((logits.argmax(1) == labels).mean()),
        "val_loss": float(-log_probabilities[np.arange(len(labels)), labels].mean()),
    }
