"""A linear probe: logistic regression on frozen features."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from graft.params import FeatureExtraction


@dataclass(frozen=True)
class LabelledFeatures:
    """Features with what is known of them.

    Attributes:
        features: float32 (N, F).
        labels: int64 (N,), in [0, C).
        weights: float64 (N,), how much each image counts.
    """

    features: np.ndarray
    labels: np.ndarray
    weights: np.ndarray


def fit_probe(
    train: LabelledFeatures, val: LabelledFeatures, classes: int, params: FeatureExtraction
) -> tuple[nn.Linear, list[dict[str, Any]]]:
    """Multinomial logistic regression, its strength chosen on validation.

    Features are standardised; each strength starts from the solution of the stronger one before it.
    The chosen solution, standardisation folded in, is an ordinary linear layer.

    Args:
        train, val: Features of C classes; every class occurs in train.
        classes: C.
        params: The path of inverse strengths C, from `strongest` to `weakest`.

    Returns:
        The layer (F -> C), and one row per strength: C, val_accuracy, val_loss.
    """
    mean, deviation = train.features.mean(0), train.features.std(0) + 1e-6
    inputs = (train.features - mean) / deviation
    val_inputs = (val.features - mean) / deviation
    best, layer, path = (-np.inf, -np.inf), nn.Linear(train.features.shape[1], classes), []
    for strength, weight, bias in _regularisation_path(inputs, train, classes, params):
        row = {"C": float(strength), **_score(val_inputs @ weight.T + bias, val.labels)}
        path.append(row)
        if (score := (row["val_accuracy"], -row["val_loss"])) > best:
            best = score
            _assign(layer, weight / deviation, bias - weight @ (mean / deviation))
    return layer, path


def _regularisation_path(
    inputs: np.ndarray, train: LabelledFeatures, classes: int, params: FeatureExtraction
) -> list[tuple[float, np.ndarray, np.ndarray]]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=300, tol=1e-3, warm_start=True)
    solutions = []
    for strength in np.geomspace(params.strongest, params.weakest, params.path):
        model.set_params(C=strength)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(inputs, train.labels, sample_weight=train.weights)
        solutions.append((strength, *_all_classes(model, classes)))
    return solutions


def _all_classes(model: Any, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights (C, F) and bias (C,); scikit-learn keeps one row where there are two classes."""
    weight, bias = model.coef_, model.intercept_
    if len(model.classes_) == 2:
        weight, bias = np.vstack([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    full_weight = np.zeros((classes, weight.shape[1]))
    full_bias = np.full(classes, -1e4)  # a class without training images is never predicted
    full_weight[model.classes_], full_bias[model.classes_] = weight, bias
    return full_weight, full_bias


def _score(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    shifted = logits - logits.max(1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return {
        "val_accuracy": float((logits.argmax(1) == labels).mean()),
        "val_loss": float(-log_probabilities[np.arange(len(labels)), labels].mean()),
    }


def _assign(layer: nn.Linear, weight: np.ndarray, bias: np.ndarray) -> None:
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
        layer.bias.copy_(torch.from_numpy(bias))
