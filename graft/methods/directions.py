"""Principal directions of features, found in the smaller of both spaces: of rows, or of columns."""

from __future__ import annotations

import numpy as np


def directions(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Directions along which features vary, the least of them first.

    Args:
        features: (N, F), centred.

    Returns:
        Sums of squares (D,) along the directions, ascending, and float64 (F, D) with orthonormal columns;
        D <= min(N, F) leaves out directions without any length.
    """
    exact = features.astype(np.float64)
    wide = len(exact) < exact.shape[1]
    squares, vectors = np.linalg.eigh(exact @ exact.T if wide else exact.T @ exact)
    kept = squares > squares[-1] * 1e-10
    if wide:
        vectors = exact.T @ (vectors[:, kept] / np.sqrt(squares[kept]))
    elif not kept.all():
        vectors = vectors[:, kept]
    return squares[kept], vectors
