"""Features of both domains from a network that stays as it is, and a linear head on them once aligned."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from torch import nn

from graft.adaptation.domains import check_domains
from graft.backbones.features import extract
from graft.backbones.trunk import BackboneConfig, Trunk
from graft.errors import GraftError
from graft.images.loading import load_images
from graft.images.table import ImageTable
from graft.methods.linear_path import Solution, Space
from graft.methods.logistic import logistic
from graft.methods.probe import LabelledFeatures, Rows, equal_shares
from graft.methods.recolouring import Map
from graft.params import FeatureExtraction
from graft.training.supervised import labelled_index, validation_index

# Of a feature's deviation in one domain, what the other must have at least. Below, dividing by it would
# blow up the first image that differs.
SMALLEST = 1e-3


@dataclass(frozen=True)
class DomainFeatures:
    """What may be seen of both domains.

    Attributes:
        source: float32 (N, F), of the source's labelled training images.
        source_labels: int64 (N,).
        target: float32 (M, F), of all the target's training images.
        target_labels: int64 (M,); -1 where an image trains without a label.
        val: float32 (V, F), of the labelled validation images that choose; V may be 0.
        val_labels: int64 (V,).
        val_of_target: Whether they are the target's; otherwise they are all the source's.
    """

    source: np.ndarray
    source_labels: np.ndarray
    target: np.ndarray
    target_labels: np.ndarray
    val: np.ndarray
    val_labels: np.ndarray
    val_of_target: bool

    def standardised(self, mean: np.ndarray, deviation: np.ndarray) -> DomainFeatures:
        """All features x as (x - mean) / deviation."""
        source, target, val = ((x - mean) / deviation for x in (self.source, self.target, self.val))
        return replace(self, source=source, target=target, val=val)


class Alignment(NamedTuple):
    """The way of both domains into one space.

    Attributes:
        source: (N, F) -> (N, D).
        target: (M, F) -> (M, D), linear, so that a head behind it is a linear head on features.
    """

    source: Map
    target: Space


def load_features(table: ImageTable, trunk: Trunk, config: BackboneConfig) -> DomainFeatures:
    """Features of the images that adaptation may see; the test split is never read.

    Raises:
        GraftError: a domain has no images to train on, or only one.
    """
    check_domains(table)
    source = labelled_index(table, "train", "source")
    target = table.select(split=["train", "unlabeled"], domain="target")
    for domain, index in (("source", source), ("target", target)):
        if len(index) < 2:
            raise GraftError(
                f"the {domain} has one image to train on, and the spread of one image is not known",
                f"add images to data/{'source/train' if domain == 'source' else 'target/unlabeled'}",
            )
    val = validation_index(table)
    images = load_images(table, source.append([target, val]), config.preprocessing)
    size = FeatureExtraction().batch_size
    features = extract(trunk, config, images.pixels, size, engine="auto").numpy()
    cuts = np.cumsum([len(source), len(target)])
    of_source, of_target, of_val = np.split(features, cuts)
    source_labels, target_labels, val_labels = np.split(images.labels.numpy(), cuts)
    unlabelled = (table.rows.loc[target, "split"] == "unlabeled").to_numpy()
    return DomainFeatures(
        of_source,
        source_labels,
        of_target,
        np.where(unlabelled, -1, target_labels),
        of_val,
        val_labels,
        bool((table.rows.loc[val, "domain"] == "target").any()),
    )


def standards(source: np.ndarray, target: np.ndarray) -> tuple[Space, Space]:
    """Either domain standardised by its own mean and deviation: (N, F) and (M, F).

    A feature that one of the domains hardly has becomes 0 in both.
    """
    own, other = source.std(0), target.std(0)
    lost = np.minimum(own, other) <= SMALLEST * np.maximum(own, other)
    spaces = [
        Space(features.mean(0), np.where(lost, np.inf, deviation).astype(features.dtype), None)
        for features, deviation in ((source, own), (target, other))
    ]
    return spaces[0], spaces[1]


def both(
    source: np.ndarray, source_labels: np.ndarray, target: np.ndarray, target_labels: np.ndarray
) -> LabelledFeatures:
    """The labelled rows of both domains, with equal weights in sum; the target judges where it has some."""
    is_target = np.repeat([False, True], [len(source), len(target)])
    return LabelledFeatures(
        np.concatenate([source, target]),
        np.concatenate([source_labels, target_labels]),
        equal_shares(pd.Series(is_target)),
        scored=is_target if len(target) else None,
    )


def judges(known: DomainFeatures, alignment: Alignment) -> LabelledFeatures:
    """The validation features in the common space, on the way of the domain they are of."""
    way = alignment.target if known.val_of_target else alignment.source
    return LabelledFeatures(way(known.val), known.val_labels, np.ones(len(known.val_labels)))


def fit_aligned(
    known: DomainFeatures, alignment: Alignment, classes: int, seed: int
) -> tuple[nn.Linear, Rows]:
    """Logistic regression in the common space, on all labelled training images.

    Returns:
        A layer on the target's features as they are (F -> C), and one row for each strength.
    """
    true = known.target_labels >= 0
    train = both(
        alignment.source(known.source),
        known.source_labels,
        alignment.target(known.target[true]),
        known.target_labels[true],
    )
    head, rows = logistic(train, judges(known, alignment), classes, FeatureExtraction(seed=seed))
    return folded(head, alignment.target), rows


def folded(head: nn.Linear, space: Space) -> nn.Linear:
    """A layer on features (N, F) that does what the head does on their coordinates (N, D)."""
    weight, bias = (parameter.detach().double().numpy() for parameter in (head.weight, head.bias))
    return space.layer(Solution(weight, bias))
