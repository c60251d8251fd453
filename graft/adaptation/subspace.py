"""Subspace alignment of frozen features (Fernando et al. 2013)."""

from __future__ import annotations

from typing import Any

import numpy as np

from graft.adaptation.frozen import Alignment, fit_aligned, load_features, standards
from graft.backbones.classifier import Classifier
from graft.errors import GraftError
from graft.images.table import ImageTable
from graft.methods.directions import directions
from graft.methods.linear_path import Space
from graft.params import DomainAdaptation

EXPLAINED = 0.99  # share of the variance


def subspace(
    table: ImageTable, model: Classifier, params: DomainAdaptation
) -> tuple[Classifier, list[dict[str, Any]]]:
    """Logistic regression on source features turned from their principal directions to the target's.

    The target's labelled training images join the fit. What the target's features go through is linear
    and becomes part of the head.

    Args:
        table: Where the images are; the test split is never read.
        model: Its trunk is used as it is; its head is not used.
        params: `subspace.dimensions` says how many directions.

    Returns:
        The same trunk with a new linear head; one row for each strength of the regression.

    Raises:
        GraftError: a domain has fewer than two images to train on, or there are not as many directions.
    """
    known = load_features(table, model.trunk, model.config)
    alignment = subspace_alignment(known.source, known.target, params.subspace.dimensions)
    head, rows = fit_aligned(known, alignment, len(table.classes), params.seed)
    made = Classifier(model.trunk, head.to(model.device), config=model.config, classes=table.classes)
    assert alignment.target.basis is not None
    dimensions = alignment.target.basis.shape[1]
    return made, [{"phase": "subspace", "dimensions": dimensions, **row} for row in rows]


def subspace_alignment(source: np.ndarray, target: np.ndarray, dimensions: int | None = None) -> Alignment:
    """The source to Z_s P_s M, M = P_s^T P_t, and the target to Z_t P_t.

    Z are features standardised in their domain, P (F, D) the first D principal directions of each. M is
    the matrix that brings P_s M nearest to P_t.

    Args:
        source: (N, F).
        target: (M, F).
        dimensions: D; None: as many as explain 99 % of the variance in either domain, or as there are.

    Raises:
        GraftError: one of the domains varies along fewer directions than wanted.
    """
    own, other = standards(source, target)
    squares_s, basis_s = directions(own(source))
    squares_t, basis_t = directions(other(target))
    most = min(len(squares_s), len(squares_t))
    if dimensions is None:
        dimensions = max(1, min(most, max(_enough(squares_s), _enough(squares_t))))
    if dimensions > most:
        raise GraftError(
            f"{dimensions} dimensions are wanted (domain_adaptation.subspace.dimensions), but the features "
            f"of the training images vary along {len(squares_s)} directions in the source and "
            f"{len(squares_t)} in the target",
            f"set it to {most} or less, or to auto, or add images" if most else "choose another method",
        )
    from_s, to_t = (basis[:, -dimensions:].astype(source.dtype) for basis in (basis_s, basis_t))
    turn = from_s.T @ to_t
    return Alignment(lambda features: own(features) @ from_s @ turn, Space(other.mean, other.deviation, to_t))


def _enough(squares: np.ndarray) -> int:
    """How many directions explain 99 % of the variance; squares (D,) ascend."""
    explained = np.cumsum(squares[::-1])
    return int((explained < EXPLAINED * squares.sum()).sum()) + 1
