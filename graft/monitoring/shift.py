"""Which classes and which images make the difference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NEIGHBOURS = 10
DIVISIONS = 999  # random ones, for a p-value


@dataclass(frozen=True)
class ClassShift:
    """How often each class is predicted.

    Attributes:
        old: Shares on the held-out images, (C,).
        new: Shares on the new images, (C,).
        distance: Total variation: the part of the predictions that would have to change, 0 to 1.
        p_value: Share of random divisions of all predictions with a larger distance.
    """

    old: np.ndarray
    new: np.ndarray
    distance: float
    p_value: float


def class_shift(old: np.ndarray, new: np.ndarray, classes: int, *, seed: int) -> ClassShift:
    """Compare predicted classes (N,) and (M,), with a permutation p-value."""
    counts = np.stack([np.bincount(each, minlength=classes) for each in (old, new)])
    total = counts.sum(axis=0)
    generator = np.random.default_rng(seed)
    drawn = generator.multivariate_hypergeometric(total, len(new), size=DIVISIONS, method="marginals")
    distances = _variation((total - drawn) / len(old), drawn / len(new))
    shares = counts / counts.sum(axis=1, keepdims=True)
    distance = float(_variation(shares[0], shares[1]))
    p_value = (1 + int((distances >= distance - 1e-12).sum())) / (1 + DIVISIONS)
    return ClassShift(shares[0], shares[1], distance, p_value)


def unusualness(reference: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Mean distance to the nearest reference images, in units of what is usual among these: (M,).

    Nearest neighbours in feature space, as Sun et al. 2022 find images out of distribution.
    """
    from sklearn.neighbors import NearestNeighbors

    mean, spread = reference.mean(axis=0), reference.std(axis=0) + 1e-6
    count = min(NEIGHBOURS, len(reference) - 1)
    neighbours = NearestNeighbors(n_neighbors=count).fit((reference - mean) / spread)
    usual = np.median(neighbours.kneighbors()[0].mean(axis=1))  # without the image itself
    return neighbours.kneighbors((new - mean) / spread)[0].mean(axis=1) / max(usual, 1e-6)


def _variation(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Half the sum of the absolute differences of shares, (..., C) -> (...)."""
    return np.abs(old - new).sum(axis=-1) / 2
