"""PACE: pseudo-labels, aligned covariances, ensembles of frozen networks (Liao et al. 2022)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from graft.adaptation.coral import covariance_alignment
from graft.adaptation.frozen import DomainFeatures, both, folded, judges, load_features
from graft.backbones.classifier import Classifier
from graft.images.table import ImageTable
from graft.methods.logistic import logistic, logistic_at
from graft.methods.probe import LabelledFeatures, Rows, best_row, score
from graft.methods.side_by_side import side_by_side, standardise
from graft.params import DomainAdaptation, FeatureExtraction


def pace(
    table: ImageTable, model: Classifier, params: DomainAdaptation
) -> tuple[Classifier, list[dict[str, Any]]]:
    """A linear classifier on the features of several networks, taught by its own sure answers.

    The source's features get the target's covariance. After a first fit, each round adds target images
    with the class they were given: of every class the surest, in the last round all. Unlike in the
    paper the ensemble is of networks alone, and the classifier is a logistic regression.

    Args:
        table: Where the images are; the test split is never read.
        model: Its trunk is the first network, used as it is; its head is not used.
        params: `pace.networks` names further ones, and `pace.rounds` how many rounds.

    Returns:
        The trunk, or all networks side by side, with a new linear head; one row for each strength of
        the first fit (round 0), then one for each round.

    Raises:
        GraftError: a domain has fewer than two images to train on, or a network cannot be had.
    """
    trunk, config, networks = model.trunk, model.config, params.pace.networks
    classes, rounds, seed = len(table.classes), params.pace.rounds, params.seed
    if not networks:
        head, rows = pseudo_labelling(load_features(table, trunk, config), classes, rounds, seed)
    else:
        trunk, config = side_by_side(trunk, config, networks, table)
        known = load_features(table, trunk, config)
        all_features = np.concatenate([known.source, known.target])
        mean, deviation = all_features.mean(0), all_features.std(0) + 1e-6
        head, rows = pseudo_labelling(known.standardised(mean, deviation), classes, rounds, seed)
        standardise(trunk, head, mean, deviation)
    made = Classifier(trunk, head, config=config, classes=table.classes).to(model.device)
    return made, rows


def pseudo_labelling(known: DomainFeatures, classes: int, rounds: int, seed: int) -> tuple[nn.Linear, Rows]:
    """Fit on what is labelled, then in rounds also on the surest of what is not.

    Labels that are known are never replaced, and both domains have equal weights in sum. The strength
    stays that of the first fit: pseudo-labels would judge in favour of themselves.

    Args:
        known: Features of both domains.
        classes: C.
        rounds: In round r, the share r / rounds of the images given each class joins.
        seed: Of cross-validation, where no validation images choose the strength.

    Returns:
        A layer on the target's features as they are (F -> C), and rows for the history.
    """
    alignment = covariance_alignment(known.source, known.target)
    source, target = alignment.source(known.source), alignment.target(known.target)
    val, true = judges(known, alignment), known.target_labels >= 0
    train = both(source, known.source_labels, target[true], known.target_labels[true])
    head, path = logistic(train, val, classes, FeatureExtraction(seed=seed))
    rows: Rows = [{"phase": "pace", "round": 0, **row} for row in path]
    strength = best_row(path)["C"]
    for number in range(1, rounds + 1 if not true.all() else 1):
        answers = _logits(head, target)
        labels = np.where(true, known.target_labels, answers.argmax(1))
        joined = true.copy()
        joined[~true] = surest(answers[~true], number / rounds)
        train = both(source, known.source_labels, target[joined], labels[joined])
        head = logistic_at(train, classes, strength)
        added = int(joined.sum() - true.sum())
        rows.append({"phase": "pace", "round": number, "pseudo_labels": added, "C": strength})
        rows[-1] |= _judged(head, val)
    return folded(head, alignment.target), rows


def surest(logits: np.ndarray, share: float) -> np.ndarray:
    """Of the rows given each class, the share that is most probably of it, rounded up.

    The same share of each class keeps the easy classes from crowding out the others.

    Args:
        logits: (N, C).
        share: In (0, 1].

    Returns:
        bool (N,).
    """
    answers, sureness = logits.argmax(1), torch.from_numpy(logits).softmax(1).amax(1).numpy()
    chosen = np.zeros(len(logits), bool)
    for answer in np.unique(answers):
        (given,) = np.nonzero(answers == answer)
        best_first = given[np.argsort(-sureness[given], kind="stable")]
        chosen[best_first[: int(np.ceil(share * len(given)))]] = True
    return chosen


def _logits(head: nn.Linear, features: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        logits: np.ndarray = head(torch.from_numpy(features).float()).double().numpy()
    return logits


def _judged(head: nn.Linear, val: LabelledFeatures) -> dict[str, float]:
    return score(_logits(head, val.features), val.labels) if len(val.labels) else {}
