"""CORAL: features of one domain with the mean and covariance of another (Sun et al. 2016)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from graft.methods.directions import directions

RIDGE = 1.0  # added to both covariances of standardised features, Sun et al. 2016

Map = Callable[[np.ndarray], np.ndarray]  # (N, F) -> (N, D)


def recolouring(source: np.ndarray, target: np.ndarray, ridge: float = RIDGE) -> Map:
    """The map x -> (x - m_s) (C_s + r I)^-1/2 (C_t + r I)^1/2 + m_t.

    It never needs a matrix (F, F) where there are fewer images than features.

    Args:
        source: (N, F), N > 1, standardised.
        target: (M, F), M > 1, standardised.
        ridge: r, so that few images do no harm. With 0 the result has the target's covariance exactly,
            if both are of full rank; a direction that one of them lacks is lost.
    """
    mean, wanted = source.mean(0), target.mean(0)
    whiten, colour = _power(source - mean, -0.5, ridge), _power(target - wanted, 0.5, ridge)

    def recoloured(features: np.ndarray) -> np.ndarray:
        made: np.ndarray = colour(whiten(features.astype(np.float64) - mean)) + wanted
        return made.astype(features.dtype)

    return recoloured


def recolour(source: np.ndarray, target: np.ndarray, ridge: float = RIDGE) -> np.ndarray:
    """The source's features themselves under that map: (N, F)."""
    return recolouring(source, target, ridge)(source)


def _power(centred: np.ndarray, exponent: float, ridge: float) -> Map:
    """x -> x (C + r I)^p: r^p in all directions, and more or less of it where the features vary."""
    squares, basis = directions(centred)
    rest = ridge**exponent if ridge else 0.0
    gain = (squares / (len(centred) - 1) + ridge) ** exponent - rest

    def multiplied(inputs: np.ndarray) -> np.ndarray:
        product: np.ndarray = rest * inputs + (inputs @ basis * gain) @ basis.T
        return product

    return multiplied
