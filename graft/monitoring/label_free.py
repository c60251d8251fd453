"""Accuracy on images without labels, from how sure the model is of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
BLOCK = 100  # resamples at a time: bounds the memory


@dataclass(frozen=True)
class PredictedAccuracy:
    """Average-thresholded confidence, fitted on labelled images and read off on new ones.

    Attributes:
        measured: Accuracy on the labelled images.
        predicted: Accuracy expected on the new ones.
        interval: 95 % bootstrap interval of `predicted`.
        drop: `measured` - `predicted`.
        drop_interval: 95 % bootstrap interval of `drop`.
        p_value: Share of resamples without a drop; small where the drop is beyond noise.
        threshold: Confidence from which on a prediction counts as right.
        labelled: Labelled images it was fitted on.
    """

    measured: float
    predicted: float
    interval: tuple[float, float]
    drop: float
    drop_interval: tuple[float, float]
    p_value: float
    threshold: float
    labelled: int


def doubt(probabilities: np.ndarray) -> np.ndarray:
    """1 - confidence, as the sum of the other classes' probabilities, which keeps its digits near 0.

    Args:
        probabilities: (N, C).

    Returns:
        float64 (N,).
    """
    others = probabilities.astype(np.float64)
    others[np.arange(len(others)), others.argmax(axis=1)] = 0.0
    return others.sum(axis=1)


def predict_accuracy(
    doubts: np.ndarray, right: np.ndarray, new: np.ndarray, *, seed: int
) -> PredictedAccuracy:
    """Average-thresholded confidence (Garg et al. 2022, "Leveraging Unlabeled Data to Predict
    Out-of-Distribution Performance").

    The threshold lets as many labelled images pass as are right; the share of new images that pass is
    the accuracy predicted for them. Both sides are resampled, and the threshold fitted anew each time.

    Args:
        doubts: Of the labelled images, (N,).
        right: bool (N,): whether the model is right about them.
        new: Doubts of the new images, (M,).
        seed: Of the bootstrap.
    """
    threshold, _ = thresholds(doubts[None], right[None])
    predicted = float(passing(doubts[None], right[None], new[None])[0])
    measured = float(right.mean())
    shares, accuracies = _resample(doubts, right, new, np.random.default_rng(seed))
    drops = accuracies - shares
    return PredictedAccuracy(
        measured,
        predicted,
        _interval(shares),
        measured - predicted,
        _interval(drops),
        float((1 + (drops <= 0).sum()) / (1 + len(drops))),
        float(1 - threshold[0]),
        len(right),
    )


def thresholds(doubts: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Doubts up to which as many images pass as are right, with the share of those exactly there.

    Args:
        doubts: (B, N), one resample per row.
        right: bool (B, N).

    Returns:
        Threshold (B,), halfway between two images; and where several images share it, which part of
        them passes (B,).
    """
    count = doubts.shape[1]
    ordered, wanted = np.sort(doubts, axis=1), right.sum(axis=1)
    row = np.arange(len(ordered))
    last, after = ordered[row, np.maximum(wanted - 1, 0)], ordered[row, np.minimum(wanted, count - 1)]
    threshold = np.where(wanted == 0, -1.0, (last + after) / 2)
    below = (doubts < threshold[:, None]).sum(axis=1)
    equal = (doubts == threshold[:, None]).sum(axis=1)
    return threshold, (wanted - below) / np.maximum(equal, 1)


def passing(doubts: np.ndarray, right: np.ndarray, new: np.ndarray) -> np.ndarray:
    """The share of new images, (B, M), that pass the threshold of the labelled ones, (B, N): (B,)."""
    threshold, part = thresholds(doubts, right)
    return (new < threshold[:, None]).mean(axis=1) + part * (new == threshold[:, None]).mean(axis=1)


def _resample(
    doubts: np.ndarray, right: np.ndarray, new: np.ndarray, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and measured accuracy in every resample, each (RESAMPLES,)."""
    shares, accuracies = [], []
    for _ in range(RESAMPLES // BLOCK):
        labelled = generator.integers(0, len(doubts), (BLOCK, len(doubts)))
        drawn = generator.integers(0, len(new), (BLOCK, len(new)))
        shares.append(passing(doubts[labelled], right[labelled], new[drawn]))
        accuracies.append(right[labelled].mean(axis=1))
    return np.concatenate(shares), np.concatenate(accuracies)


def _interval(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)
