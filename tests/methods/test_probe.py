import numpy as np
import pytest
import torch

from graft.methods.probe import LabelledFeatures, fit_probe
from graft.params import FeatureExtraction

PARAMS = FeatureExtraction(path=5)


def blobs(classes: int, count: int, seed: int, spread: float = 0.5) -> LabelledFeatures:
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    centres = np.random.default_rng(0).normal(size=(classes, 6)) * 3 + 5
    features = (centres[labels] + spread * rng.normal(size=(count, 6))).astype(np.float32)
    return LabelledFeatures(features, labels.astype(np.int64), np.ones(count))


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_separable_classes_are_separated(classes: int) -> None:
    layer, path = fit_probe(blobs(classes, 140, 1), blobs(classes, 70, 2), classes, PARAMS)
    unseen = blobs(classes, 70, 3)
    with torch.no_grad():
        predicted = layer(torch.from_numpy(unseen.features)).argmax(1).numpy()
    assert (predicted == unseen.labels).mean() > 0.97
    assert layer.weight.shape == (classes, 6)
    assert [row["C"] for row in path] == pytest.approx(np.geomspace(1e-4, 1e2, 5))


def test_the_layer_gives_scikit_learns_probabilities() -> None:
    """Standardisation is folded into the layer, so that serving needs no scaler."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    train, val = blobs(3, 150, 1, spread=2.5), blobs(3, 60, 2, spread=2.5)
    params = FeatureExtraction(path=1, strongest=0.1, weakest=0.1)
    layer, _ = fit_probe(train, val, 3, params)
    reference = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, tol=1e-6, max_iter=1000))
    reference.fit(train.features, train.labels)
    with torch.no_grad():
        probabilities = layer(torch.from_numpy(val.features)).softmax(1).numpy()
    assert probabilities == pytest.approx(reference.predict_proba(val.features), abs=0.01)


def test_two_classes_agree_with_scikit_learns_single_row() -> None:
    from sklearn.linear_model import LogisticRegression

    train, val = blobs(2, 150, 1, spread=2.5), blobs(2, 60, 2, spread=2.5)
    layer, _ = fit_probe(train, val, 2, FeatureExtraction(path=1, strongest=1.0, weakest=1.0))
    scaled = (train.features - train.features.mean(0)) / train.features.std(0)
    reference = LogisticRegression(C=1.0, tol=1e-6).fit(scaled, train.labels)
    with torch.no_grad():
        probabilities = layer(torch.from_numpy(train.features)).softmax(1).numpy()
    assert probabilities == pytest.approx(reference.predict_proba(scaled), abs=0.01)


def test_validation_chooses_the_strength() -> None:
    train, val = blobs(3, 30, 1, spread=4), blobs(3, 300, 2, spread=4)
    layer, path = fit_probe(train, val, 3, PARAMS)
    with torch.no_grad():
        accuracy = (layer(torch.from_numpy(val.features)).argmax(1).numpy() == val.labels).mean()
    assert accuracy == pytest.approx(max(row["val_accuracy"] for row in path), abs=0.01)


def test_a_class_without_training_images_is_never_predicted() -> None:
    train = blobs(3, 60, 1)
    layer, _ = fit_probe(train, train, 5, PARAMS)
    with torch.no_grad():
        predicted = layer(torch.from_numpy(train.features)).argmax(1).numpy()
    assert set(predicted) == {0, 1, 2}


def test_weights_count() -> None:
    """An image of weight zero might as well be absent."""
    train = blobs(3, 60, 1, spread=2)
    wrong = LabelledFeatures(train.features, (train.labels + 1) % 3, np.zeros(60))
    both = LabelledFeatures(
        np.concatenate([train.features, wrong.features]),
        np.concatenate([train.labels, wrong.labels]),
        np.concatenate([train.weights, wrong.weights]),
    )
    alone, _ = fit_probe(train, train, 3, PARAMS)
    together, _ = fit_probe(both, train, 3, PARAMS)
    inputs = torch.from_numpy(train.features)
    assert torch.equal(alone(inputs).argmax(1), together(inputs).argmax(1))
