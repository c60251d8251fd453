"""What one classifier scores on one set of labelled images, with its uncertainty.

Everything here is a pure function of the probabilities (N, C) and the labels (N,).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Z_95 = 1.959963984540054  # standard normal quantile of a two-sided 95 % interval


@dataclass(frozen=True)
class ClassScore:
    """One row of the per-class table; `support` is the number of images with that label."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON stores it, with the 95 % Wilson interval of the recall where there are images."""
        low, high = wilson(round(self.recall * self.support), self.support) if self.support else (0.0, 1.0)
        return {**vars(self), "recall_low": low, "recall_high": high}


@dataclass(frozen=True)
class Scores:
    """A classifier on a set of images.

    Attributes:
        images: Number of images, N.
        accuracy, interval: Share predicted right, and its 95 % Wilson interval.
        balanced_accuracy: Mean recall over the classes that have images.
        macro_f1: Mean F1 over the classes that have images or were predicted.
        calibration_error, reliability: See `calibration`; (15, 3).
        brier: See `brier`; 0 is perfect, 2 the worst.
        nll: Negative log-likelihood of the label, nats per image.
        per_class: One row per class, in the order of the classes.
        confusion: Counts (C, C); rows are labels, columns are predictions.
    """

    images: int
    accuracy: float
    interval: tuple[float, float]
    balanced_accuracy: float
    macro_f1: float
    calibration_error: float
    brier: float
    nll: float
    per_class: tuple[ClassScore, ...]
    confusion: np.ndarray
    reliability: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        """As JSON stores it: scalars by name, tables as lists."""
        return {
            "images": self.images,
            "accuracy": self.accuracy,
            "accuracy_low": self.interval[0],
            "accuracy_high": self.interval[1],
            "balanced_accuracy": self.balanced_accuracy,
            "macro_f1": self.macro_f1,
            "calibration_error": self.calibration_error,
            "brier": self.brier,
            "nll": self.nll,
            "per_class": [row.to_dict() for row in self.per_class],
            "confusion": self.confusion.tolist(),
        }


def score(probabilities: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> Scores:
    """All scores at once.

    Args:
        probabilities: (N, C), rows sum to one, N >= 1.
        labels: (N,) class indices.
        classes: The C names.
    """
    matrix = confusion_matrix(labels, probabilities.argmax(axis=1), len(classes))
    table = per_class(matrix, classes)
    seen = (matrix.sum(axis=0) + matrix.sum(axis=1)) > 0
    right, images = int(np.trace(matrix)), len(labels)
    error, bins = calibration(probabilities, labels)
    return Scores(
        images=images,
        accuracy=right / images,
        interval=wilson(right, images),
        balanced_accuracy=_mean([row.recall for row in table if row.support]),
        macro_f1=_mean([row.f1 for row, any_image in zip(table, seen, strict=True) if any_image]),
        calibration_error=error,
        brier=brier(probabilities, labels),
        nll=negative_log_likelihood(probabilities, labels),
        per_class=tuple(table),
        confusion=matrix,
        reliability=bins,
    )


def wilson(right: int, total: int) -> tuple[float, float]:
    """The 95 % score interval of a proportion (Wilson 1927); unlike Wald's it never leaves [0, 1]."""
    share, spread = right / total, Z_95**2 / total
    centre = (share + spread / 2) / (1 + spread)
    half = Z_95 * np.sqrt(share * (1 - share) / total + spread / (4 * total)) / (1 + spread)
    low = 0.0 if right == 0 else float(centre - half)
    high = 1.0 if right == total else float(centre + half)
    return low, high


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Counts (C, C): row = label, column = prediction."""
    cells = np.bincount(labels * classes + predicted, minlength=classes * classes)
    return cells.reshape(classes, classes)


def per_class(confusion: np.ndarray, classes: Sequence[str]) -> list[ClassScore]:
    """Precision, recall and F1 of each class; 0 where a ratio has no images to stand on."""
    right, labelled, predicted = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    precision = right / np.maximum(predicted, 1)
    recall = right / np.maximum(labelled, 1)
    f1 = 2 * right / np.maximum(labelled + predicted, 1)
    columns = zip(classes, precision.tolist(), recall.tolist(), f1.tolist(), labelled.tolist(), strict=True)
    return [ClassScore(*row) for row in columns]


def calibration(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> tuple[float, np.ndarray]:
    """Expected calibration error: sum over bins of n_bin / N * |accuracy - mean confidence|.

    Guo et al. 2017, "On Calibration of Modern Neural Networks": bins of equal width over the
    probability of the predicted class.

    Returns:
        The error, and (bins, 3): images, mean confidence and accuracy of each bin.
    """
    confidence, right = probabilities.max(axis=1).astype(float), probabilities.argmax(axis=1) == labels
    bin_of = np.clip(
        np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1
    )  # (lower, upper] as in the paper
    images = np.bincount(bin_of, minlength=bins)
    summed = [np.bincount(bin_of, weights=values, minlength=bins) for values in (confidence, right)]
    mean_confidence, accuracy = (values / np.maximum(images, 1) for values in summed)
    error = float(np.abs(summed[1] - summed[0]).sum() / len(labels))
    return error, np.stack([images, mean_confidence, accuracy], axis=1)


def brier(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean over images of sum_c (p_c - [c is the label])^2 (Brier 1950)."""
    chosen = probabilities[np.arange(len(labels)), labels].astype(float)
    return float(np.mean((probabilities.astype(float) ** 2).sum(axis=1) - 2 * chosen + 1))


def negative_log_likelihood(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean of -ln p(label), nats; probabilities are kept above 1e-12 so that it stays finite."""
    chosen = probabilities[np.arange(len(labels)), labels].astype(float)
    return float(-np.log(np.clip(chosen, 1e-12, 1.0)).mean())


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
