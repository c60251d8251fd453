"""How well frozen features already fit the labels: scores that need no training.

Both compare backbones on the same images and labels only; a score alone says nothing. They are numbers of
the features as they are, so each backbone brings its own number of features, N x F.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

_GRID = np.linspace(-12, 6, 73)  # log10 of the ridge, in units of the largest squared singular value
_GOLDEN = (np.sqrt(5) - 1) / 2


def log_me(features: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """LogME, the log of the maximum evidence (You et al. 2021), per image and class; higher is better.

    Each class k is a regression of y = 1[label = k] (N,) on the features F (N, D), with the weights
    w ~ N(0, 1/a) and the noise ~ N(0, 1/b). The evidence of a and b, w integrated out, is

        L(a, b) = N/2 log b + D/2 log a - N/2 log 2pi - b/2 |F m - y|^2 - a/2 |m|^2 - 1/2 log |A|,

    A = a I + b F'F, m = b A^-1 F'y. LogME is the mean over classes of max L / N. The paper finds the
    maximum by a fixed-point iteration; here, with the ridge t = a/b, the best b is known,
    b = N / E(t) with E(t) = |F m - y|^2 + t |m|^2, and what is left is a maximum over t alone,

        L(t) = -N/2 log(2pi e E(t) / N) + 1/2 sum_i log(t / (t + s_i^2)),

    s_i the singular values of F: a grid over log t, then golden sections. It does not stop at a local
    maximum, nor diverge where the features fit y exactly: t is at least 1e-12 times the largest s_i^2.

    Args:
        features: (N, F), of any numeric type.
        labels: (N,), one value per class; at least two classes.

    Raises:
        ValueError: the shapes do not match, features are not finite, or there are fewer than 2 classes.
    """
    f, codes, classes = _checked(features, labels)
    left, singular, _ = np.linalg.svd(f, full_matrices=False)
    targets = np.eye(classes)[codes]  # (N, K)
    squares = singular**2
    unit = squares[0] or 1.0
    shares = (left.T @ targets) ** 2  # (R, K): of |y|^2, along each direction of the features
    outside = np.maximum((targets**2).sum(0) - shares.sum(0), 0.0)  # (K,)

    def evidence(logs: Array) -> Array:
        """L / N at log10 t, for each class: (..., K) -> (..., K)."""
        t = unit * 10.0 ** logs[..., None, :]  # (..., 1, K)
        shrunk = t / (t + squares[:, None])  # (..., R, K)
        error = np.maximum(outside + (shares * shrunk).sum(-2), len(f) * 1e-15)
        volume = np.log(shrunk).sum(-2)
        result: Array = (volume / len(f) - np.log(2 * np.pi * np.e * error / len(f))) / 2
        return result

    on_grid = np.stack([evidence(np.full(classes, log)) for log in _GRID])  # (G, K)
    best = _GRID[on_grid.argmax(0)]
    step = _GRID[1] - _GRID[0]
    return float(_golden_maximum(evidence, best - step, best + step).mean())


def h_score(features: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """H-score with a shrunk covariance (Bao et al. 2019; Ibrahim et al. 2022); higher is better.

    H = tr(cov(f)^-1 cov(E[f | y])): how much of the features' variance lies between classes, every
    direction counted alike; at most C - 1. The covariance of few images cannot be inverted, so

        S_a = (1 - a) S + a tr(S)/D I,    H_a = (1 - a) tr(S_a^-1 S_between),

    S = cov(f), a after Ledoit & Wolf 2004, as Ibrahim et al. regularise it.

    Args:
        features: (N, F), of any numeric type.
        labels: (N,), one value per class; at least two classes.

    Raises:
        ValueError: the shapes do not match, features are not finite, or there are fewer than 2 classes.
    """
    f, codes, classes = _checked(features, labels)
    centred = f - f.mean(0)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    variances = singular**2 / len(f)  # eigenvalues of S; the others are 0
    spread = variances.sum() / f.shape[1]
    if spread == 0:  # every image has the same features
        return 0.0
    a = _ledoit_wolf(centred, variances)
    members = np.eye(classes)[codes]
    counts = members.sum(0)
    means = (members.T @ left) * singular / counts[:, None]  # of classes, in the eigenvectors' axes
    between = (counts[:, None] / len(f) * means**2).sum(0)
    shrunk = (1 - a) * variances + a * spread
    kept = shrunk > 1e-12 * shrunk.max()
    return float((1 - a) * (between[kept] / shrunk[kept]).sum())


def _checked(features: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[Array, npt.NDArray[np.intp], int]:
    f = np.asarray(features, dtype=np.float64)
    names, codes = np.unique(np.asarray(labels), return_inverse=True)
    if f.ndim != 2 or codes.shape != (len(f),):
        raise ValueError(f"features {f.shape} and labels {codes.shape} are not (N, F) and (N,)")
    if not np.isfinite(f).all():
        raise ValueError("features are not finite")
    if len(names) < 2:
        raise ValueError(f"labels hold {len(names)} class; at least 2 are needed")
    return f, codes, len(names)


def _golden_maximum(curve: Callable[[Array], Array], low: Array, high: Array) -> Array:
    """The largest value of each class's curve between two bounds, by golden sections."""
    best = curve((low + high) / 2)
    for _ in range(40):
        inner, outer = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        left, right = curve(inner), curve(outer)
        best = np.maximum(best, np.maximum(left, right))
        low, high = np.where(left < right, inner, low), np.where(left < right, high, outer)
    return best


def _ledoit_wolf(centred: Array, variances: Array) -> float:
    """The share of the identity that is best for the covariance of these rows, in [0, 1]."""
    n, d = centred.shape
    squares = (variances**2).sum()  # |S|^2
    distance = squares - variances.sum() ** 2 / d  # |S - tr(S)/D I|^2
    if distance <= 0:
        return 1.0
    noise = (((centred**2).sum(1) ** 2).sum() / n - squares) / n  # of S, as an estimate
    return float(np.clip(noise / distance, 0.0, 1.0))
