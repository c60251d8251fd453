"""The pictures of the monitoring page."""

from __future__ import annotations

import numpy as np

from graft.images.canvas import BLUE, INK, ORANGE, new_figure, to_svg

BINS = 20


def confidence_figure(old: np.ndarray, new: np.ndarray, threshold: float) -> str:
    """Shares of images by the confidence of their prediction, (N,) and (M,), and the fitted threshold."""
    figure, (axes,) = new_figure(5.2, 3.6, 1)
    edges = np.linspace(min(old.min(), new.min(), 0.99), 1, BINS + 1)
    for values, colour, label in ((old, BLUE, "held-out, labelled"), (new, ORANGE, "new")):
        share = np.histogram(values, edges)[0] / len(values)
        axes.stairs(share, edges, color=colour, linewidth=1.6, label=label)
        axes.stairs(share, edges, color=colour, alpha=0.18, fill=True)
    if edges[0] <= threshold <= 1:
        axes.axvline(
            threshold, color=INK, linewidth=1, linestyle=(0, (4, 3)), label="counts as right from here"
        )
    axes.set(xlabel="probability of the predicted class", ylabel="share of images", xlim=(edges[0], 1))
    axes.legend(loc="upper left", fontsize=8, labelcolor=INK, frameon=False)
    return to_svg(figure, "confidence of old and new images")


def features_figure(old: np.ndarray, new: np.ndarray) -> str:
    """Both samples of features, (N, F) and (M, F), on their first two principal components."""
    points, shares = principal_components(np.concatenate([old, new]))
    figure, (axes,) = new_figure(5.2, 4.4, 1)
    groups = ((points[: len(old)], BLUE, "o", "reference"), (points[len(old) :], ORANGE, "^", "new"))
    for values, colour, marker, label in groups:
        axes.plot(
            *values.T, marker=marker, color=colour, label=label, linestyle="", markersize=3.5,
            markeredgewidth=0, alpha=0.55,
        )  # fmt: skip
    first, second = (
        f"component {i} ({100 * share:.0f} % of the variance)" for i, share in enumerate(shares, 1)
    )
    axes.set(xlabel=first, ylabel=second)
    axes.legend(loc="best", fontsize=8, labelcolor=INK, frameon=False)
    return to_svg(figure, "features of old and new images")


def principal_components(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Standardised features (N, F) to (N, 2), and the share of the variance of each axis, (2,)."""
    scaled = (features - features.mean(axis=0)) / (features.std(axis=0) + 1e-6)
    scaled = np.pad(scaled, ((0, 0), (0, max(0, 2 - scaled.shape[1]))))
    left, singular, _ = np.linalg.svd(scaled.astype(np.float64), full_matrices=False)
    shares = singular[:2] ** 2 / max((singular**2).sum(), 1e-12)
    return left[:, :2] * singular[:2], shares
