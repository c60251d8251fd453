"""How far two domains' features lie apart, by how well a linear classifier tells them from each other."""

from __future__ import annotations

import numpy as np

FOLDS = 5  # of the cross-validation; a domain with fewer images cannot be judged


def proxy_a_distance(source: np.ndarray, target: np.ndarray, *, seed: int) -> float | None:
    """The proxy A-distance 2 (1 - 2 error) of Ben-David et al. 2007, clipped at 0.

    "Analysis of Representations for Domain Adaptation": 0 where a linear classifier can but guess which
    domain an image comes from, 2 where it always knows. The error is the mean of both domains' errors, so
    that a large domain beside a small one does not look far away. It is measured on images held out.

    Args:
        source: Features (N, F).
        target: Features (M, F).
        seed: Of the draw of the folds.

    Returns:
        A number in [0, 2]; None where a domain has fewer than five images.
    """
    from sklearn.preprocessing import StandardScaler

    if min(len(source), len(target)) < FOLDS:
        return None
    both = StandardScaler().fit_transform(np.concatenate([source, target]).astype(np.float64))
    told = told_apart(both, np.arange(len(both)) >= len(source), seed=seed)
    return None if told is None else max(0.0, 2 * (1 - 2 * (1 - told)))


def told_apart(features: np.ndarray, target: np.ndarray, *, seed: int) -> float | None:
    """Balanced accuracy of a linear classifier that says which domain an image comes from.

    Args:
        features: (N, F), each of about mean 0 and deviation 1.
        target: bool (N,); whether the image comes from the target.
        seed: Of the draw of the five folds.

    Returns:
        The mean over the folds, 0.5 where it guesses; None where a domain has fewer than five images.
    """
    if min(target.sum(), (~target).sum()) < FOLDS:
        return None
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    model = LogisticRegression(C=0.1, max_iter=200, class_weight="balanced")
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    return float(cross_val_score(model, features, target, cv=folds, scoring="balanced_accuracy").mean())
