"""A linear support vector machine on frozen features, with probabilities."""

from __future__ import annotations

import warnings

import numpy as np
from torch import nn

from graft.methods.linear_path import Solution, all_classes, judged_path
from graft.methods.probe import LabelledFeatures, Rows, score
from graft.params import FeatureExtraction


def svm(
    train: LabelledFeatures, val: LabelledFeatures, classes: int, params: FeatureExtraction
) -> tuple[nn.Linear, Rows]:
    """One class against the rest, squared hinge loss (Fan et al. 2008), strength chosen by accuracy.

    Margins are no probabilities, so they are divided by the temperature at which their softmax fits
    the judging features best (Guo et al. 2017). See `fit_probe` for arguments and result.
    """
    strengths = np.geomspace(params.strongest, params.weakest, params.path)
    path = judged_path(train, val, classes, strengths, _solve, params.seed)
    temperatures = [temperature(logits, path.labels) for logits in path.logits]
    scores = [score(z / t, path.labels) for z, t in zip(path.logits, temperatures, strict=True)]
    best = max(range(len(scores)), key=lambda i: (scores[i]["val_accuracy"], -scores[i]["val_loss"]))
    weight, bias = path.solutions[best]
    layer = path.space.layer(Solution(weight / temperatures[best], bias / temperatures[best]))
    told = zip(strengths, temperatures, scores, strict=True)
    return layer, [{"C": float(c), "temperature": float(t), **each} for c, t, each in told]


def temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """T > 0 for which softmax(logits / T) has the least cross-entropy to smoothed labels.

    The label keeps 1 - 1 / (M + 2) of M rows, as in Platt 1999: without an error among them T would
    go to zero, and every answer would be certain.

    Args:
        logits: (M, C).
        labels: int64 (M,).
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    count, classes = logits.shape
    smooth = 1 / (count + 2)
    targets = np.eye(classes)[labels] * (1 - smooth) + smooth / classes
    known = np.maximum(logits, -100.0)  # a class without training images is out of the question anyway

    def loss(log_t: float) -> float:
        return float(-(targets * log_softmax(known / np.exp(log_t), axis=1)).sum())

    return float(np.exp(minimize_scalar(loss, bounds=(-4.0, 4.0), method="bounded").x))


def _solve(data: LabelledFeatures, classes: int, strengths: np.ndarray) -> list[Solution]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import LinearSVC

    solutions = []
    for strength in strengths:
        model = LinearSVC(C=strength, tol=1e-3, random_state=0, max_iter=2000)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(data.features, data.labels, sample_weight=data.weights)
        solutions.append(all_classes(model, classes))
    return solutions
