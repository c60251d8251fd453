"""CORAL: correlation alignment of frozen features (Sun et al. 2016)."""

from __future__ import annotations

from typing import Any

import numpy as np

from graft.adaptation.frozen import Alignment, fit_aligned, load_features, standards
from graft.backbones.classifier import Classifier
from graft.images.table import ImageTable
from graft.methods.recolouring import RIDGE, recolouring
from graft.params import DomainAdaptation


def coral(
    table: ImageTable, model: Classifier, params: DomainAdaptation
) -> tuple[Classifier, list[dict[str, Any]]]:
    """Logistic regression on source features that have the target's covariance.

    Only the source's features are changed, and only for the fit, so the target's are classified as
    they come. The target's labelled training images join the fit.

    Args:
        table: Where the images are; the test split is never read.
        model: Its trunk is used as it is; its head is not used.
        params: The section.

    Returns:
        The same trunk with a new linear head; one row for each strength of the regression.

    Raises:
        GraftError: a domain has fewer than two images to train on.
    """
    known = load_features(table, model.trunk, model.config)
    alignment = covariance_alignment(known.source, known.target)
    head, rows = fit_aligned(known, alignment, len(table.classes), params.seed)
    made = Classifier(model.trunk, head.to(model.device), config=model.config, classes=table.classes)
    return made, [{"phase": "coral", **row} for row in rows]


def covariance_alignment(source: np.ndarray, target: np.ndarray, ridge: float = RIDGE) -> Alignment:
    """Both domains standardised, the source also whitened and given the target's colour.

    Args:
        source: (N, F).
        target: (M, F).
        ridge: See `recolouring`.
    """
    own, other = standards(source, target)
    recoloured = recolouring(own(source), other(target), ridge)
    return Alignment(lambda features: recoloured(own(features)), other)
