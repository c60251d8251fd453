"""Several networks side by side, and one linear classifier on the features of all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from torch import nn

from graft.backbones.classifier import Classifier
from graft.backbones.features import extract
from graft.backbones.trunk import BackboneConfig, Trunk
from graft.errors import GraftError
from graft.images.augmentation import Policy
from graft.images.augmentation import policy as make_policy
from graft.images.loading import load_images
from graft.images.table import ImageTable
from graft.methods.lesson import prepare
from graft.methods.logistic import logistic
from graft.methods.probe import LabelledFeatures, equal_shares
from graft.methods.recolouring import recolouring
from graft.methods.side_by_side import side_by_side, standardise
from graft.params import FeatureExtraction, FineTuning
from graft.training.device import best_device
from graft.training.freezing import keep_statistics, unfreeze
from graft.training.loop import History, fit
from graft.training.supervised import labelled_index, validation_index


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
    trunk, config = side_by_side(model.trunk, model.config, networks, table)
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


def _frozen(
    table: ImageTable, trunk: Trunk, config: BackboneConfig, params: FineTuning
) -> tuple[nn.Linear, History]:
    """Fill in the standardisation, and fit the head on frozen features."""
    index, val = labelled_index(table, "train"), validation_index(table)
    more = table.select(split="unlabeled", domain=table.target)
    rows = index.append([more, val])
    images = load_images(table, rows, config.preprocessing)
    size = FeatureExtraction().batch_size
    features = extract(trunk, config, images.pixels, size, engine="auto").numpy()
    learn, unlabelled, judge = np.split(features, np.cumsum([len(index), len(more)]))
    mean, deviation = learn.mean(0), learn.std(0) + 1e-6
    learn, unlabelled, judge = ((each - mean) / deviation for each in (learn, unlabelled, judge))
    train, held = _aligned(table, index, val, learn, unlabelled, judge)
    head, path = logistic(train, held, len(table.classes), FeatureExtraction(seed=params.seed))
    standardise(trunk, head, mean, deviation)
    return head, [{"phase": "frozen", **row} for row in path]


def _aligned(
    table: ImageTable,
    index: pd.Index,
    val: pd.Index,
    learn: np.ndarray,
    unlabelled: np.ndarray,
    judge: np.ndarray,
) -> tuple[LabelledFeatures, LabelledFeatures]:
    """Features to learn from, equal in weight per domain, and to judge by; the source's recoloured."""
    domains = table.rows.loc[index, "domain"]
    is_target = (domains == table.target).to_numpy()
    target = np.concatenate([learn[is_target], unlabelled])
    if len(table.domains) > 1 and len(target) > 1 and (~is_target).sum() > 1:
        recoloured = recolouring(learn[~is_target], target)
        learn, judge = learn.copy(), judge.copy()
        learn[~is_target] = recoloured(learn[~is_target])
        of_source = (table.rows.loc[val, "domain"] != table.target).to_numpy()
        judge[of_source] = recoloured(judge[of_source])
    labels, held = (table.rows.loc[rows, "label"].to_numpy(np.int64) for rows in (index, val))
    scored = is_target if is_target.any() else None
    train = LabelledFeatures(learn, labels, equal_shares(domains), scored=scored)
    return train, LabelledFeatures(judge, held, np.ones(len(held)))
