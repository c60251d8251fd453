"""Do two samples of features come from one distribution? Two tests, each with a valid p-value."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

BLOCK = 256  # permutations at a time: bounds the memory


@dataclass(frozen=True)
class ClassifierTest:
    """What a classifier that tells the samples apart achieves on images it was not fitted on.

    Attributes:
        accuracy: Balanced accuracy on the held-out half; 0.5 is guessing.
        p_value: How likely guessing does as well.
        held_out: Images it was judged on.
    """

    accuracy: float
    p_value: float
    held_out: int


@dataclass(frozen=True)
class MmdTest:
    """Maximum mean discrepancy of the samples.

    Attributes:
        mmd: 0 for equal samples, in units of the kernel (at most the square root of 2).
        p_value: Share of random divisions into two samples that are as far apart.
        bandwidth: Width of the Gaussian kernel: the median distance.
        permutations: Random divisions tried.
    """

    mmd: float
    p_value: float
    bandwidth: float
    permutations: int


def standardise(old: np.ndarray, new: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both samples on the scale of both together, which keeps them exchangeable: (N, F), (M, F)."""
    pooled = np.concatenate([old, new]).astype(np.float64)
    pooled = (pooled - pooled.mean(axis=0)) / (pooled.std(axis=0) + 1e-6)
    return pooled[: len(old)], pooled[len(old) :]


def classifier_test(old: np.ndarray, new: np.ndarray, *, seed: int) -> ClassifierTest:
    """Classifier two-sample test (Lopez-Paz & Oquab 2017) with logistic regression.

    Fitted on half of the images, judged on the other half. If the samples do not differ, the held-out
    images' origins are in random order, whatever the classifier says: how many new ones lie among those
    it calls new is hypergeometric. That gives the permutation p-value exactly, for samples of any sizes.

    Args:
        old: Standardised features (N, F).
        new: Standardised features (M, F).
        seed: Of the division into halves.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.model_selection import train_test_split

    features = np.concatenate([old, new])
    is_new = np.arange(len(features)) >= len(old)
    fitted, judged, truth, held_out = train_test_split(
        features, is_new, test_size=0.5, stratify=is_new, random_state=seed
    )
    model = LogisticRegression(C=0.1, max_iter=300, class_weight="balanced").fit(fitted, truth)
    called_new = model.predict(judged)
    accuracy = balanced_accuracy_score(held_out, called_new)
    return ClassifierTest(float(accuracy), _hypergeometric(held_out, called_new), len(held_out))


def mmd_test(old: np.ndarray, new: np.ndarray, *, permutations: int, seed: int) -> MmdTest:
    """Kernel two-sample test (Gretton et al. 2012): Gaussian kernel, median heuristic, permutations.

    Args:
        old: Standardised features (N, F).
        new: Standardised features (M, F).
        permutations: The p-value is at least 1 / (permutations + 1).
        seed: Of the permutations.
    """
    squared = _squared_distances(np.concatenate([old, new]))
    bandwidth = _median_distance(squared)
    kernel = np.exp(-squared / (2 * bandwidth**2), out=squared)
    weights = np.repeat([1 / len(old), -1 / len(new)], [len(old), len(new)])
    observed = _discrepancies(kernel, weights[:, None])[0]
    generator = np.random.default_rng(seed)
    as_far = 0
    for start in range(0, permutations, BLOCK):
        columns = np.repeat(weights[:, None], min(BLOCK, permutations - start), axis=1)
        drawn = generator.permuted(columns, axis=0)
        # A rounding error must not make an equal division count as a smaller one.
        as_far += int((_discrepancies(kernel, drawn) >= observed - 1e-7).sum())
    p_value = (1 + as_far) / (1 + permutations)
    return MmdTest(math.sqrt(max(observed, 0.0)), p_value, bandwidth, permutations)


def _hypergeometric(is_new: np.ndarray, called_new: np.ndarray) -> float:
    """P(at least so many new ones among those called new), were the origins shuffled."""
    from scipy.stats import hypergeom

    hits = int((is_new & called_new).sum())
    return float(hypergeom.sf(hits - 1, len(is_new), int(is_new.sum()), int(called_new.sum())))


def _squared_distances(features: np.ndarray) -> np.ndarray:
    """(N, F) -> float32 (N, N)."""
    lengths = (features**2).sum(axis=1)
    squared = lengths[:, None] + lengths[None, :] - 2 * (features @ features.T)
    np.fill_diagonal(squared, 0.0)
    return np.maximum(squared, 0.0).astype(np.float32)


def _median_distance(squared: np.ndarray) -> float:
    """Of different images; 1 where most are equal, since a kernel needs some width."""
    median = math.sqrt(float(np.median(squared[~np.eye(len(squared), dtype=bool)])))
    return median or 1.0


def _discrepancies(kernel: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """w' K w for every column of (N, P): the biased estimate of the squared discrepancy, (P,)."""
    weights = weights.astype(np.float32)
    return ((kernel @ weights).astype(np.float64) * weights).sum(axis=0)
