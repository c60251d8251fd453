"""A linear probe: multinomial logistic regression on frozen features."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from torch import nn

from graft.methods.linear_path import ABSENT, Solution, Space, judged_path
from graft.methods.probe import LabelledFeatures, Rows, score
from graft.params import FeatureExtraction

# As near to the minimum as scikit-learn comes with tol=1e-3, measured with 300 images and 1280 features.
_STOP = {"maxiter": 300, "maxcor": 10, "gtol": 3e-4, "ftol": 1e-7}


def logistic(
    train: LabelledFeatures, val: LabelledFeatures, classes: int, params: FeatureExtraction
) -> tuple[nn.Linear, Rows]:
    """Logistic regression, its strength chosen by accuracy, then by cross-entropy.

    Each strength starts from the solution of the stronger one before it. Standardisation is folded into
    the layer. See `fit_probe` for arguments and result.
    """
    strengths = np.geomspace(params.strongest, params.weakest, params.path)
    path = judged_path(train, val, classes, strengths, _solve, params.seed)
    scores = [score(logits, path.labels) for logits in path.logits]
    best = max(range(len(scores)), key=lambda i: (scores[i]["val_accuracy"], -scores[i]["val_loss"]))
    rows = [{"C": float(strength), **each} for strength, each in zip(strengths, scores, strict=True)]
    return path.space.layer(path.solutions[best]), rows


def logistic_at(train: LabelledFeatures, classes: int, strength: float) -> nn.Linear:
    """Logistic regression of one strength C, which nothing judges. See `logistic`."""
    space, coordinates = Space.of(train.features)
    solutions = _solve(replace(train, features=coordinates), classes, np.array([strength]))
    return space.layer(solutions[0])


def _solve(data: LabelledFeatures, classes: int, strengths: np.ndarray) -> list[Solution]:
    """The minimum of mean cross-entropy + |W|^2 / (2 C sum of weights), for each C, by L-BFGS.

    Along principal directions the matrix of second derivatives is nearly diagonal. Scaled by that
    diagonal the problem is round, and few steps are needed.
    """
    from scipy.optimize import minimize

    present, labels = np.unique(data.labels, return_inverse=True)
    inputs = np.column_stack([data.features, np.ones(len(labels), data.features.dtype)])
    weights = data.weights / data.weights.sum()
    targets = np.eye(len(present), dtype=inputs.dtype)[labels]
    curvature = weights @ (inputs.astype(np.float64) ** 2) / len(present)
    found, solutions = np.zeros((len(present), inputs.shape[1])), []
    # Of two classes scikit-learn penalises the difference of their weights, as is usual: C means the same.
    halves = 2.0 if len(present) == 2 else 1.0
    for strength in strengths:
        penalty = np.full(inputs.shape[1], halves / (strength * data.weights.sum()))
        penalty[-1] = 0.0  # of the bias
        scale = 1 / np.sqrt(curvature + penalty)
        objective = _Objective(inputs, targets, weights, penalty, scale)
        start = (found / scale).ravel()
        result = minimize(objective, start, jac=True, method="L-BFGS-B", options=_STOP)
        found = result.x.reshape(found.shape) * scale
        weight, bias = np.zeros((classes, found.shape[1] - 1)), np.full(classes, ABSENT)
        weight[present], bias[present] = found[:, :-1], found[:, -1]
        solutions.append(Solution(weight, bias))
    return solutions


class _Objective(NamedTuple):
    """Called with scaled parameters (K * (D + 1),), gives the value and its gradient."""

    inputs: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    penalty: np.ndarray
    scale: np.ndarray

    def __call__(self, scaled: np.ndarray) -> tuple[float, np.ndarray]:
        matrix = scaled.reshape(-1, len(self.scale)) * self.scale
        logits = self.inputs @ matrix.T.astype(self.inputs.dtype)
        logits -= logits.max(1, keepdims=True)
        exponentials = np.exp(logits)
        sums = exponentials.sum(1, keepdims=True)
        losses = np.log(sums[:, 0]) - (logits * self.targets).sum(1)
        value = self.weights @ losses + 0.5 * (matrix**2 @ self.penalty).sum()
        errors = (exponentials / sums - self.targets) * self.weights[:, None].astype(self.inputs.dtype)
        gradient = (errors.T @ self.inputs + matrix * self.penalty) * self.scale
        return float(value), gradient.ravel().astype(np.float64)
