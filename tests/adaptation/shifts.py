"""What the tests of methods on frozen features share: two domains, and tables with other labels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from graft.adaptation.frozen import Alignment, DomainFeatures, fit_aligned, standards
from graft.images.table import ImageTable
from tests.methods.learning import relabelled


def seen(
    source: np.ndarray, labels: np.ndarray, target: np.ndarray, target_labels: np.ndarray | None = None
) -> DomainFeatures:
    """Features without validation images; the target without labels where none are given."""
    width, unknown = source.shape[1], np.full(len(target), -1)
    return DomainFeatures(
        source=source.astype(np.float32),
        source_labels=labels,
        target=target.astype(np.float32),
        target_labels=unknown if target_labels is None else target_labels,
        val=np.empty((0, width), np.float32),
        val_labels=np.empty(0, np.int64),
        val_of_target=False,
    )


def accuracy(head: nn.Linear, features: np.ndarray, labels: np.ndarray) -> float:
    with torch.no_grad():
        answers = head(torch.from_numpy(features.astype(np.float32))).argmax(1).numpy()
    return float((answers == labels).mean())


def unaligned(known: DomainFeatures) -> Alignment:
    """The target seen as if it were the source."""
    space, _ = standards(known.source, known.source)
    return Alignment(space, space)


def scores(
    known: DomainFeatures,
    labels: np.ndarray,
    align: Callable[[np.ndarray, np.ndarray], Alignment],
) -> tuple[float, float]:
    """Accuracy on the target's features without alignment and with it."""
    classes = int(known.source_labels.max()) + 1
    before, after = (
        accuracy(fit_aligned(known, each, classes, seed=0)[0], known.target, labels)
        for each in (unaligned(known), align(known.source, known.target))
    )
    return before, after


def other_test_labels(table: ImageTable) -> ImageTable:
    return relabelled(table, table.rows["split"] == "test", 0)


def labelled_unlabelled(table: ImageTable) -> ImageTable:
    return relabelled(table, table.rows["split"] == "unlabeled", 2)


def blind(table: ImageTable) -> ImageTable:
    """The target without a label outside its test split."""
    rows = table.rows
    return relabelled(table, (rows["domain"] == "target") & (rows["split"] != "test"), -1)
