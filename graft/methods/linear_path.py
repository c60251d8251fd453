"""Linear classifiers on frozen features over a path of regularisation strengths, and the choice of one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from graft.methods.directions import directions
from graft.methods.probe import FOLDS, LabelledFeatures

MOST = 2048  # principal directions
ABSENT = -1e4  # bias of a class without training images


class Solution(NamedTuple):
    """weight (C, D) and bias (C,), in the space that the solver was given."""

    weight: np.ndarray
    bias: np.ndarray


# Inputs (N, D) with their labels and weights, and the strengths, to one solution per strength.
Solver = Callable[[LabelledFeatures, int, np.ndarray], list[Solution]]


@dataclass(frozen=True)
class Space:
    """Standardised features along their principal directions, at most as many as there are rows.

    A penalty on the weights' length keeps the solution in the span of the training features (the
    representer theorem), and turning the space changes no length: the solution is the same. There are
    min(N, F) coordinates instead of F, and they are uncorrelated, which a solver can make use of.

    Attributes:
        mean, deviation: (F,).
        basis: (F, D) with orthonormal columns, D <= min(N, F); None where that is more than MOST, as
            finding them would take longer than it saves.
    """

    mean: np.ndarray
    deviation: np.ndarray
    basis: np.ndarray | None

    @classmethod
    def of(cls, features: np.ndarray) -> tuple[Space, np.ndarray]:
        """The space of training features (N, F), and their coordinates (N, D) in it."""
        mean, deviation = features.mean(0), features.std(0) + 1e-6
        inputs = (features - mean) / deviation
        if min(inputs.shape) > MOST:
            return cls(mean, deviation, None), inputs
        _, vectors = directions(inputs)
        basis = vectors.astype(inputs.dtype)
        return cls(mean, deviation, basis), inputs @ basis

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Coordinates (N, D) of features (N, F)."""
        inputs = (features - self.mean) / self.deviation
        return inputs if self.basis is None else inputs @ self.basis

    def layer(self, solution: Solution) -> nn.Linear:
        """A solution as a layer on features as they are: basis and standardisation folded in."""
        weight = solution.weight if self.basis is None else solution.weight @ self.basis.T
        weight = weight / self.deviation
        layer = nn.Linear(weight.shape[1], len(weight))
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(weight))
            layer.bias.copy_(torch.from_numpy(solution.bias - weight @ self.mean))
        return layer


@dataclass(frozen=True)
class Judged:
    """The path with the logits it is judged by.

    Attributes:
        space: Where the solutions live.
        solutions: One per strength, fitted to all training features.
        logits: (M, C) per strength: of the validation features, or of training features while their fold
            was held out.
        labels: (M,).
    """

    space: Space
    solutions: list[Solution]
    logits: list[np.ndarray]
    labels: np.ndarray


def judged_path(
    train: LabelledFeatures,
    val: LabelledFeatures,
    classes: int,
    strengths: np.ndarray,
    solve: Solver,
    seed: int,
) -> Judged:
    """Solve the path, and have it judged by the validation features, else by cross-validation.

    Folds are stratified by class, and the views of an image are in the same one.
    """
    space, coordinates = Space.of(train.features)
    inside = replace(train, features=coordinates)
    solutions = solve(inside, classes, strengths)
    if len(val.labels):
        points = space(val.features)
        logits = [points @ weight.T + bias for weight, bias in solutions]
        return Judged(space, solutions, logits, val.labels)
    parts, labels = [], []
    for learn, held in folds(train, seed):
        found = solve(rows_of(inside, learn), classes, strengths)
        parts.append([coordinates[held] @ weight.T + bias for weight, bias in found])
        labels.append(train.labels[held])
    logits = [np.concatenate(each) for each in zip(*parts, strict=True)]
    return Judged(space, solutions, logits, np.concatenate(labels))


def folds(train: LabelledFeatures, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Positions to learn from, and positions to judge by, of each fold that has both."""
    import warnings

    from sklearn.model_selection import StratifiedGroupKFold

    count = len(train.labels)
    images = np.arange(count) if train.images is None else train.images
    scored = np.ones(count, bool) if train.scored is None else train.scored
    number = min(FOLDS, len(np.unique(images)))
    splitter = StratifiedGroupKFold(max(2, number), shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes with fewer images than folds
        for learn, held in splitter.split(images, train.labels, images):
            held = held[scored[held]]
            if len(held) and len(np.unique(train.labels[learn])) > 1:
                yield learn, held


def rows_of(data: LabelledFeatures, where: np.ndarray) -> LabelledFeatures:
    """Some of the rows, without what only cross-validation asks for."""
    return LabelledFeatures(data.features[where], data.labels[where], data.weights[where])


def all_classes(model: Any, classes: int) -> Solution:
    """A fitted model of scikit-learn with a row for every class; it keeps one row of two classes."""
    weight, bias = model.coef_, model.intercept_
    if len(model.classes_) == 2:
        weight, bias = np.vstack([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    full_weight = np.zeros((classes, weight.shape[1]))
    full_bias = np.full(classes, ABSENT)
    full_weight[model.classes_], full_bias[model.classes_] = weight, bias
    return Solution(full_weight, full_bias)
