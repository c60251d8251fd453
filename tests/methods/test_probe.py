"""Classifiers on frozen features: against scikit-learn, and against what they must not see."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from graft.backbones.heads import RecurrentHead
from graft.methods.linear_path import folds
from graft.methods.probe import LabelledFeatures, fit_probe, how_chosen
from graft.methods.svm import temperature
from graft.params import FeatureExtraction

PARAMS = FeatureExtraction(path=5, hidden=16, epochs=15, learning_rate=0.01, neighbours=5)
HEADS = ("logistic", "svm", "neighbours", "dense", "recurrent")
NONE = LabelledFeatures(np.empty((0, 6), np.float32), np.empty(0, np.int64), np.empty(0))


def blobs(classes: int, count: int, seed: int, spread: float = 0.5, width: int = 6) -> LabelledFeatures:
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    centres = np.random.default_rng(0).normal(size=(classes, width)) * 3 + 5
    features = (centres[labels] + spread * rng.normal(size=(count, width))).astype(np.float32)
    return LabelledFeatures(features, labels.astype(np.int64), np.ones(count), positions=3)


def answers(head: torch.nn.Module, data: LabelledFeatures) -> np.ndarray:
    with torch.no_grad():
        return head.eval()(torch.from_numpy(data.features)).softmax(1).numpy()


def one(strength: float) -> FeatureExtraction:
    return FeatureExtraction(path=1, strongest=strength, weakest=strength)


@pytest.mark.parametrize("with_validation", [True, False])
@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("name", HEADS)
def test_separable_classes_are_separated(name: str, classes: int, with_validation: bool) -> None:
    params = PARAMS.model_copy(update={"head": name})
    val = blobs(classes, 70, 2) if with_validation else NONE
    head, rows = fit_probe(blobs(classes, 150, 1), val, classes, params)
    unseen = blobs(classes, 70, 3)
    assert (answers(head, unseen).argmax(1) == unseen.labels).mean() > 0.9
    assert (head.in_features, head.out_features) == (6, classes)
    assert with_validation == ("val_loss" in rows[0]) or name in ("logistic", "svm")
    assert how_chosen(rows, params, len(val.labels))
    if name in ("logistic", "svm"):
        assert [row["C"] for row in rows] == pytest.approx(np.geomspace(1e-4, 1e2, 5))


@settings(max_examples=15, deadline=None)
@given(
    count=st.integers(8, 60),
    width=st.integers(1, 90),
    classes=st.integers(2, 5),
    strength=st.sampled_from([1e-3, 0.1, 1.0]),
    seed=st.integers(0, 99),
)
def test_the_logistic_layer_is_scikit_learns(
    count: int, width: int, classes: int, strength: float, seed: int
) -> None:
    """Also with more features than images; standardisation and directions are folded into the layer."""
    train = blobs(classes, count, seed, spread=2.5, width=width)
    weights = np.random.default_rng(seed).uniform(0.2, 2.0, count)
    layer, _ = fit_probe(replace(train, weights=weights), train, classes, one(strength))
    scaled = StandardScaler().fit_transform(train.features.astype(float))
    reference = LogisticRegression(C=strength, tol=1e-6, max_iter=500)
    reference.fit(scaled, train.labels, sample_weight=weights)
    wanted = reference.predict_proba(scaled)
    assert answers(layer, train) == pytest.approx(wanted, abs=1e-2)


@pytest.mark.parametrize("width", [6, 80])
def test_the_svm_answers_as_scikit_learns(width: int) -> None:
    train, val = (blobs(3, 60, seed, spread=3, width=width) for seed in (1, 2))
    layer, _ = fit_probe(train, val, 3, one(0.01).model_copy(update={"head": "svm"}))
    reference = make_pipeline(StandardScaler(), LinearSVC(C=0.01, tol=1e-5))
    reference.fit(train.features, train.labels)
    margins = reference.decision_function(val.features)
    with torch.no_grad():
        logits = layer(torch.from_numpy(val.features)).numpy()
    ratio = margins.std() / logits.std()
    assert logits * ratio == pytest.approx(margins, abs=0.02 * margins.std())


def test_the_temperature_is_found() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4000, 4)) * 2
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (shares.cumsum(1) < rng.random((4000, 1))).sum(1)
    assert temperature(logits * 7, labels) == pytest.approx(7, rel=0.1)
    assert temperature(logits, logits.argmax(1)) > np.exp(-4)  # without an error it stays finite


def test_validation_chooses_the_strength() -> None:
    train, val = blobs(3, 30, 1, spread=4), blobs(3, 300, 2, spread=4)
    layer, path = fit_probe(train, val, 3, PARAMS)
    accuracy = (answers(layer, val).argmax(1) == val.labels).mean()
    assert accuracy == pytest.approx(max(row["val_accuracy"] for row in path), abs=0.01)


def test_cross_validation_judges_by_unseen_images() -> None:
    """On noise, training accuracy is high and the judged one is chance; so it is with views of each."""
    rng = np.random.default_rng(0)
    once = rng.normal(size=(60, 40)).astype(np.float32)
    views = np.concatenate([once, once + 0.01 * rng.normal(size=once.shape).astype(np.float32)])
    train = LabelledFeatures(
        views,
        np.tile(np.arange(60) % 2, 2),
        np.ones(120),
        images=np.tile(np.arange(60), 2),
        scored=np.arange(120) < 60,
    )
    layer, path = fit_probe(train, NONE, 2, PARAMS)
    assert (answers(layer, train).argmax(1) == train.labels).mean() > 0.7
    assert max(row["val_accuracy"] for row in path) < 0.65
    held = [each for _, each in folds(train, 0)]
    assert sorted(np.concatenate(held)) == list(range(60))
    for learn, judged in folds(train, 0):
        assert train.images is not None
        assert not set(train.images[learn]) & set(train.images[judged])


@pytest.mark.parametrize("name", ["logistic", "svm", "neighbours"])
def test_a_class_without_training_images_is_never_predicted(name: str) -> None:
    train = blobs(3, 60, 1)
    head, _ = fit_probe(train, train, 5, PARAMS.model_copy(update={"head": name}))
    assert set(answers(head, train).argmax(1)) == {0, 1, 2}


@pytest.mark.parametrize("name", ["logistic", "svm", "neighbours"])
def test_weights_count(name: str) -> None:
    """An image of weight zero might as well be absent."""
    params = one(0.1).model_copy(update={"head": name})
    train = blobs(3, 60, 1, spread=2)
    both = LabelledFeatures(
        np.concatenate([train.features, train.features]),
        np.concatenate([train.labels, (train.labels + 1) % 3]),
        np.concatenate([train.weights, np.zeros(60)]),
    )
    alone, _ = fit_probe(train, train, 3, params)
    together, _ = fit_probe(both, train, 3, params)
    assert answers(alone, train) == pytest.approx(answers(together, train), abs=0.02)


@pytest.mark.parametrize("name", HEADS)
def test_the_same_data_gives_the_same_head(name: str) -> None:
    params = PARAMS.model_copy(update={"head": name, "epochs": 2})
    train = blobs(3, 60, 1)
    heads = []
    for seed in (0, 1):  # whatever ran before must not matter
        torch.manual_seed(seed)
        heads.append(fit_probe(train, NONE, 3, params)[0].state_dict())
    assert all(torch.equal(heads[0][name], heads[1][name]) for name in heads[0])


def test_a_recurrent_head_learns_an_order() -> None:
    """The sum over positions is the same for both classes; only their order tells."""
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 2
    pulses = np.zeros((200, 2, 3), np.float32)
    pulses[np.arange(200), labels] = rng.normal(size=(200, 3)) + 4
    train = LabelledFeatures(pulses.reshape(200, 6), labels, np.ones(200), positions=2)
    head, _ = fit_probe(train, train, 2, PARAMS.model_copy(update={"head": "recurrent"}))
    assert isinstance(head, RecurrentHead)
    assert (answers(head, train).argmax(1) == labels).mean() > 0.95
