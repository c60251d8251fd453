"""The comparison of new images with those a model learned from, and what to do about it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from graft.backbones.classifier import Classifier
from graft.errors import GraftError
from graft.images.loading import load_images
from graft.images.table import ImageTable
from graft.monitoring.incoming import FEWEST, NewImages, read_new_images
from graft.monitoring.label_free import PredictedAccuracy, doubt, predict_accuracy
from graft.monitoring.shift import ClassShift, class_shift, unusualness
from graft.monitoring.two_sample import ClassifierTest, MmdTest, classifier_test, mmd_test, standardise

FINE, DRIFTED, RETRAIN = "fine", "drifted", "retrain"
EXIT_CODES = {FINE: 0, DRIFTED: 3, RETRAIN: 4}
MOST = 2000  # images per side: the kernel test's time grows with the square
ENOUGH = 100  # reference images that need no training ones beside them
TESTS = 2  # that may each raise the alarm


@dataclass(frozen=True)
class Seen:
    """Images as the model sees them.

    Attributes:
        features: float32 (N, F).
        probabilities: float32 (N, C).
    """

    features: np.ndarray
    probabilities: np.ndarray

    @property
    def predicted(self) -> np.ndarray:
        """Positions of the most probable classes, (N,)."""
        return self.probabilities.argmax(axis=1)


@dataclass(frozen=True)
class Findings:
    """All there is to report.

    Attributes:
        status: "fine", "drifted" or "retrain".
        reasons: Sentences that led to it.
        table: What the model learned from.
        classes: The model's.
        images: The new images; `incoming` is what the model sees of them.
        splits: Of the reference images.
        reference: Images of the table; `held_out`: labelled ones that were not trained on.
        distances: From each new image to its neighbours among the reference images, (N,); 1 is usual.
        alpha: Chance of a false alarm, over both tests.
    """

    status: str
    reasons: tuple[str, ...]
    table: ImageTable
    classes: tuple[str, ...]
    splits: tuple[str, ...]
    images: NewImages
    incoming: Seen
    reference: Seen
    held_out: Seen
    classifier: ClassifierTest
    mmd: MmdTest
    accuracy: PredictedAccuracy
    shift: ClassShift
    distances: np.ndarray
    alpha: float
    max_drop: float
    seed: int


def monitor(
    model: Classifier, table: ImageTable, folder: Path, *, alpha: float, max_drop: float, seed: int
) -> Findings:
    """Compare a folder of new images with the images of the tested domain.

    Args:
        model: The classifier in use.
        table: The images it was trained on and tested with.
        folder: New images, without labels.
        alpha: Chance of calling images of the same distribution drifted; half goes to each test.
        max_drop: Fall of the accuracy that calls for retraining, as a share.
        seed: Of every draw.

    Raises:
        GraftError: too few images on a side, or a model and a table of other classes.
    """
    labelled = _labelled(table, model, seed)
    splits = reference_splits(table)
    compared = _draw(table.select(split=splits, domain=table.target), seed)
    images = read_new_images(folder, model.config.preprocessing, most=MOST, seed=seed)
    incoming = _see(model, images.pixels)
    reference, held_out = (
        _see(model, load_images(table, index, model.config.preprocessing).pixels)
        for index in (compared, labelled)
    )
    right = _right(model, table, labelled, held_out)
    doubts = doubt(held_out.probabilities), right, doubt(incoming.probabilities)
    accuracy = predict_accuracy(*doubts, seed=seed)
    tests = _tests(reference, incoming, alpha, seed)
    shift = class_shift(held_out.predicted, incoming.predicted, len(model.classes), seed=seed)
    distances = unusualness(reference.features, incoming.features)
    status, reasons = judge(*tests, accuracy, alpha=alpha, max_drop=max_drop)
    seen = (incoming, reference, held_out)
    about = (table, model.classes, splits, images, *seen, *tests, accuracy, shift, distances)
    return Findings(status, reasons, *about, alpha=alpha, max_drop=max_drop, seed=seed)


def _tests(old: Seen, new: Seen, alpha: float, seed: int) -> tuple[ClassifierTest, MmdTest]:
    """Both two-sample tests, with permutations enough to reach a fifth of each one's share of alpha."""
    features = standardise(old.features, new.features)
    permutations = max(999, math.ceil(5 * TESTS / alpha) - 1)
    return classifier_test(*features, seed=seed), mmd_test(*features, permutations=permutations, seed=seed)


def reference_splits(table: ImageTable) -> tuple[str, ...]:
    """Which images of the tested domain stand for the data the model was trained for.

    A network that has learned images by heart sees them differently from others of the same
    distribution, and a test against them raises false alarms. So the train split is left out where the
    others have `ENOUGH` images.
    """
    others = ("val", "test", "unlabeled")
    enough = len(table.select(split=others, domain=table.target)) >= ENOUGH
    return others if enough else ("train", *others)


def judge(
    classifier: ClassifierTest, mmd: MmdTest, accuracy: PredictedAccuracy, *, alpha: float, max_drop: float
) -> tuple[str, tuple[str, ...]]:
    """The status, and why.

    Drifted: either test's p-value is below alpha / 2 (Bonferroni). Retrain: the predicted accuracy is
    more than `max_drop` below the measured one, and the drop is beyond the noise of the images drawn.
    """
    each = alpha / TESTS
    tests = {"the classifier two-sample test": classifier.p_value, "the kernel two-sample test": mmd.p_value}
    found = [f"{name} finds a difference (p = {p:.2g})" for name, p in tests.items() if p < each]
    predicted, measured = (f"{100 * share:.1f} %" for share in (accuracy.predicted, accuracy.measured))
    said = f"{predicted} accuracy is predicted; {measured} was measured"
    fell = accuracy.drop > max_drop
    if fell and accuracy.p_value < alpha:
        return RETRAIN, (said, *found)
    said += f": lower, but within noise (p = {accuracy.p_value:.2g})" if fell else ""
    return (DRIFTED, (*found, said)) if found else (FINE, ("neither test finds a difference", said))


def _see(model: Classifier, pixels: Tensor) -> Seen:
    """One pass of the trunk gives both."""
    features = model.features_pixels(pixels)
    with torch.inference_mode():
        logits = model.head(features.to(model.device)).float()
    return Seen(features.numpy(), logits.softmax(1).cpu().numpy())


def _draw(index: pd.Index, seed: int) -> pd.Index:
    if len(index) <= MOST:
        return index
    return pd.Index(np.sort(np.random.default_rng(seed).choice(index.to_numpy(), MOST, replace=False)))


def _labelled(table: ImageTable, model: Classifier, seed: int) -> pd.Index:
    """Labelled images of the tested domain that no weight was fitted to."""
    if not set(model.classes) & set(table.classes):
        raise GraftError(
            f"the model knows {', '.join(model.classes[:5])}; the image table {table.path} has none of these",
            "give the image table the model was trained on (--images), or another --model",
        )
    index = table.select(split=["val", "test"], domain=table.target)
    index = index[(table.rows.loc[index, "label"] >= 0).to_numpy()]
    _refuse_few(table, len(index), "labelled held-out", "raise data.test_fraction, or add labelled images")
    return _draw(index, seed)


def _right(model: Classifier, table: ImageTable, index: pd.Index, seen: Seen) -> np.ndarray:
    """Whether the model is right, by the classes' names: (N,)."""
    names = np.array(table.classes)[table.rows.loc[index, "label"].to_numpy()]
    return np.array(model.classes)[seen.predicted] == names


def _refuse_few(table: ImageTable, count: int, kind: str, fix: str) -> None:
    if count < FEWEST:
        where = f" of the domain {table.target}" if table.target else ""
        problem = f"the image table {table.path} has {count} {kind} images{where}, and {FEWEST} are needed"
        raise GraftError(problem, fix)
