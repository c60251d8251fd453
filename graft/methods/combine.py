"""Several networks side by side, and one linear classifier on the features of all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from graft.backbones import structures, weights
from graft.backbones.assembled import Combined
from graft.backbones.classifier import Classifier
from graft.backbones.features import extract
from graft.backbones.resolution import at_resolution
from graft.backbones.trunk import BackboneConfig, Trunk
from graft.errors import GraftError
from graft.images.augmentation import Policy
from graft.images.augmentation import policy as make_policy
from graft.images.decoding import load_images
from graft.images.table import ImageTable
from graft.methods.lesson import prepare
from graft.methods.logistic import logistic
from graft.methods.probe import LabelledFeatures, equal_shares
from graft.params import Backbone, FeatureExtraction, FineTuning, Network
from graft.training.device import best_device
from graft.training.freezing import keep_statistics, unfreeze
from graft.training.loop import History, fit
from graft.training.supervised import labelled_index, validation_index

RIDGE = 1.0  # added to both covariances of standardised features, Sun et al. 2016


def combine(
    table: ImageTable, model: Classifier, policy: Policy, params: FineTuning, *, work: Path
) -> tuple[Classifier, History]:
    """Join the features of the backbone and of `params.combine.networks`.

    Frozen, the features of all are standardised, the source's are given the target's covariance
    (CORAL, Sun et al. 2016) for the fit alone, and logistic regression stands on them. With
    `combine.joint` that is the start, and then all networks are trained together with the head.

    Args:
        table: Where the images are; validation chooses strength and epoch.
        model: Its trunk is the first of the networks; its head is not used.
        policy: The augmentation of training images, in joint training.
        params: The section.
        work: Folder for checkpoints.

    Returns:
        The new classifier; one row per strength (phase `frozen`), then one an epoch (phase `fusion`).

    Raises:
        GraftError: no network is named, or one cannot be had.
    """
    networks = params.combine.networks
    if not networks:
        raise GraftError(
            "fine_tuning.method is combine, but fine_tuning.combine.networks is empty",
            "name one network or more, such as networks: [{name: resnet18}]",
        )
    first = structures.plain(model.trunk, model.config)
    trunk, config = structures.combined([first, *(_prepared(each, table) for each in networks)])
    trunk.to(best_device())
    head, history = _frozen(table, trunk, config, params)
    made = Classifier(trunk, head, config=config, classes=table.classes).to(best_device())
    if not params.combine.joint:
        return made, history
    drawn = make_policy(policy.params, config.preprocessing)
    lesson = prepare(table, made, drawn, params)
    if lesson.plan.stored:
        keep_statistics(made.trunk)
    phase = lesson.phase("fusion", lesson.plan.epochs)
    history += fit(made, lesson.loss, phase, work=work, validate=lesson.validate)
    unfreeze(made.trunk)
    return made, history


def recolour(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Give features the mean and covariance of others: x -> (x - m_s) C_s^-1/2 C_t^1/2 + m_t.

    Args:
        source: (N, F), standardised.
        target: (M, F), standardised.

    Returns:
        (N, F). The covariances have `RIDGE` on their diagonal, so that few images do no harm.
    """
    whiten = _power(_covariance(source), -0.5)
    colour = _power(_covariance(target), 0.5)
    recoloured: np.ndarray = (source - source.mean(0)) @ whiten @ colour + target.mean(0)
    return recoloured.astype(source.dtype)


def _prepared(network: Network, table: ImageTable) -> tuple[Trunk, BackboneConfig]:
    params = Backbone(name=network.name, weights=network.weights, sha256=network.sha256)
    trunk, config = weights.prepare(params)
    return trunk, at_resolution(trunk, config, input_size=None, short_side=table.short_side)


def _frozen(
    table: ImageTable, trunk: Trunk, config: BackboneConfig, params: FineTuning
) -> tuple[nn.Linear, History]:
    """Fill in the standardisation, and fit the head on frozen features."""
    index, val = labelled_index(table, "train"), validation_index(table)
    more = table.select(split="unlabeled", domain=table.target)
    rows = index.append([more, val])
    images = load_images(table, rows, config.preprocessing)
    features = extract(trunk, config, images.pixels, FeatureExtraction().batch_size).numpy()
    learn, unlabelled, judge = np.split(features, np.cumsum([len(index), len(more)]))
    assert isinstance(trunk.network, Combined)
    mean, deviation = learn.mean(0), learn.std(0) + 1e-6
    trunk.network.standardise(torch.from_numpy(mean), torch.from_numpy(deviation))
    learn, unlabelled, judge = ((each - mean) / deviation for each in (learn, unlabelled, judge))
    train = _aligned(table, index, learn, unlabelled)
    labels = table.rows.loc[val, "label"].to_numpy(np.int64)
    held = LabelledFeatures(judge, labels, np.ones(len(labels)))
    head, path = logistic(train, held, len(table.classes), FeatureExtraction(seed=params.seed))
    with torch.no_grad():
        head.weight *= trunk.network.lengths()  # a part's features come divided by theirs
    return head, [{"phase": "frozen", **row} for row in path]


def _aligned(
    table: ImageTable, index: pd.Index, learn: np.ndarray, unlabelled: np.ndarray
) -> LabelledFeatures:
    """The training features, the source's recoloured; every domain with the same weight in sum."""
    domains = table.rows.loc[index, "domain"]
    is_target = (domains == table.target).to_numpy()
    target = np.concatenate([learn[is_target], unlabelled])
    if len(table.domains) > 1 and len(target) > 1 and (~is_target).sum() > 1:
        learn = learn.copy()
        learn[~is_target] = recolour(learn[~is_target], target)
    scored = is_target if is_target.any() else None
    return LabelledFeatures(
        learn,
        table.rows.loc[index, "label"].to_numpy(np.int64),
        equal_shares(domains),
        scored=scored,
    )


def _covariance(features: np.ndarray) -> np.ndarray:
    covariance: np.ndarray = np.cov(features.astype(np.float64), rowvar=False)
    return covariance + RIDGE * np.eye(features.shape[1])


def _power(matrix: np.ndarray, exponent: float) -> np.ndarray:
    """Of a symmetric, positive definite matrix."""
    values, vectors = np.linalg.eigh(matrix)
    powered: np.ndarray = (vectors * values**exponent) @ vectors.T
    return powered
