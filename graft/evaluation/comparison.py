"""Two classifiers on the same images: is the difference more than chance?"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Comparison:
    """Challenger minus other, on the same images.

    Attributes:
        difference, interval: Of the accuracies, with its paired bootstrap 95 % interval.
        only_challenger, only_other: Images that only one of the two predicted right.
        p_value: McNemar's exact test that both are equally good.
        images: Number of images.
    """

    difference: float
    interval: tuple[float, float]
    only_challenger: int
    only_other: int
    p_value: float
    images: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON stores it."""
        values = asdict(self)
        values["low"], values["high"] = values.pop("interval")
        return values


def compare(right: np.ndarray, other: np.ndarray, *, resamples: int, seed: int) -> Comparison:
    """Compare two classifiers by which images each predicted right; both (N,) bool."""
    gained, lost = int((right & ~other).sum()), int((other & ~right).sum())
    return Comparison(
        difference=(gained - lost) / len(right),
        interval=paired_bootstrap(gained, lost, len(right), resamples=resamples, seed=seed),
        only_challenger=gained,
        only_other=lost,
        p_value=mcnemar(gained, lost),
        images=len(right),
    )


def paired_bootstrap(
    gained: int, lost: int, images: int, *, resamples: int, seed: int
) -> tuple[float, float]:
    """95 % percentile interval of the accuracy difference, images resampled with replacement (Efron 1979).

    The difference depends on an image only through won, lost or tied, so drawing how many of each
    fall into a resample is the same distribution as drawing the images, and takes microseconds.
    """
    shares = np.array([gained, lost, images - gained - lost]) / images
    drawn = np.random.default_rng(seed).multinomial(images, shares, size=resamples)
    low, high = np.quantile((drawn[:, 0] - drawn[:, 1]) / images, [0.025, 0.975])
    return float(low), float(high)


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided exact p-value (McNemar 1947): do the images that only one got right split evenly?"""
    if gained + lost == 0:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(gained, gained + lost, 0.5).pvalue)


def chance(gained: int, lost: int, images: int, *, tolerance: float = 0.0) -> float:
    """One-sided p-value: how often a challenger worse by `tolerance` does at least so well.

    The percentile bootstrap alone is too hopeful where few images differ: of 4 won and none lost it
    hardly ever draws a resample without a win, so its lower end is above 0, and yet a fair coin does as
    well in 1 of 16 trials. Without tolerance this is McNemar's exact test (1947), one-sided, which keeps
    its level however few images differ; with it, Tango's score test (1998, Statistics in Medicine 17).

    Args:
        gained, lost: Images that only the challenger, only the other predicted right.
        images: All of them.
        tolerance: As a share of 1.
    """
    from scipy.stats import binom, norm

    if tolerance < 1e-6:  # far below one image, and too small for the other's arithmetic
        return float(binom.sf(gained - 1, gained + lost, 0.5))
    return float(norm.sf(_score_statistic(gained, lost, images, -tolerance)))


def _score_statistic(gained: int, lost: int, images: int, difference: float) -> float:
    """Tango's (1998) standard normal under a true difference strictly between -1 and 0."""
    linear = -gained - lost + (2 * images - gained + lost) * difference
    constant = -lost * difference * (1 - difference)
    # The share of images lost that is most likely under this difference.
    share_lost = (math.sqrt(linear**2 - 8 * images * constant) - linear) / (4 * images)
    variance = images * (2 * share_lost + difference * (1 - difference))
    surplus = gained - lost - images * difference
    if variance <= 0:  # a difference of -1 leaves no room for chance
        return math.copysign(math.inf, surplus) if surplus else 0.0
    return surplus / math.sqrt(variance)


def selection_optimism(right: np.ndarray, *, resamples: int, seed: int) -> float:
    """How much choosing the best of K on these images flatters it, as a share of 1.

    Bootstrap estimate of optimism (Efron & Tibshirani 1993): the best on a resample, its accuracy
    there minus its accuracy on all images, averaged. As in `paired_bootstrap`, images that the same
    candidates predicted right are drawn together.

    Args:
        right: (K, N) bool, one row per candidate.
    """
    patterns, counts = np.unique(right, axis=1, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(counts.sum(), counts / counts.sum(), size=resamples)
    resampled = drawn @ patterns.T / counts.sum()  # (resamples, K)
    best = resampled.argmax(axis=1)
    flattered = resampled[np.arange(resamples), best] - right.mean(axis=1)[best]
    return max(float(flattered.mean()), 0.0)
