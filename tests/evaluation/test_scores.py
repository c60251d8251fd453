"""Scores: invariants, and the same numbers as scikit-learn and the textbook."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from graft.evaluation.scores import calibration, score, wilson


def names(count: int) -> list[str]:
    return [f"class {i}" for i in range(count)]


@st.composite
def answers(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (N, C) and labels (N,)."""
    images, classes = draw(st.integers(1, 40)), draw(st.integers(2, 6))
    logits = draw(arrays(np.float64, (images, classes), elements=st.floats(-5, 5)))
    labels = draw(arrays(np.int64, images, elements=st.integers(0, classes - 1)))
    exponents = np.exp(logits)
    return (exponents / exponents.sum(axis=1, keepdims=True)).astype(np.float32), labels


@given(answers())
@settings(deadline=None)
def test_perfect_predictions_score_perfectly(answer: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities, labels = answer
    perfect = np.eye(probabilities.shape[1], dtype=np.float32)[labels]
    scores = score(perfect, labels, names(probabilities.shape[1]))
    assert scores.accuracy == scores.balanced_accuracy == scores.macro_f1 == scores.interval[1] == 1
    assert scores.calibration_error == pytest.approx(0, abs=1e-9)
    assert scores.brier == pytest.approx(0, abs=1e-9)
    assert scores.nll == pytest.approx(0, abs=1e-9)


@given(answers(), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_the_order_of_images_does_not_matter(answer: tuple[np.ndarray, np.ndarray], random: object) -> None:
    probabilities, labels = answer
    order = np.random.default_rng(random.randint(0, 9999)).permutation(len(labels))  # type: ignore[attr-defined]
    known = names(probabilities.shape[1])
    one, other = score(probabilities, labels, known), score(probabilities[order], labels[order], known)
    assert np.array_equal(one.confusion, other.confusion)
    assert one.per_class == other.per_class
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "calibration_error", "brier", "nll"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), abs=1e-9)


@given(answers(), st.data())
@settings(deadline=None)
def test_renaming_classes_only_moves_their_rows(
    answer: tuple[np.ndarray, np.ndarray], data: st.DataObject
) -> None:
    probabilities, labels = answer
    known = names(probabilities.shape[1])
    order = np.array(data.draw(st.permutations(range(len(known)))))
    one = score(probabilities, labels, known)
    other = score(probabilities[:, order], np.argsort(order)[labels], [known[i] for i in order])
    if np.all(np.sort(probabilities, axis=1)[:, -1] > np.sort(probabilities, axis=1)[:, -2]):  # no ties
        assert other.accuracy == one.accuracy
        assert {row.name: row for row in other.per_class} == {row.name: row for row in one.per_class}
        assert other.macro_f1 == pytest.approx(one.macro_f1)
    assert other.brier == pytest.approx(one.brier, abs=1e-9)


@given(st.integers(1, 3000), st.floats(0, 1))
def test_the_wilson_interval_holds_its_share_and_stays_in_range(total: int, share: float) -> None:
    right = round(share * total)
    low, high = wilson(right, total)
    assert 0 <= low <= right / total <= high <= 1
    assert wilson(total - right, total) == pytest.approx((1 - high, 1 - low))


def test_wilson_of_the_textbook() -> None:
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)  # Newcombe 1998, table I


def test_wilson_covers_the_truth_as_often_as_it_says() -> None:
    right = np.random.default_rng(0).binomial(100, 0.9, 4000)
    covered = np.mean([low <= 0.9 <= high for low, high in (wilson(int(r), 100) for r in right)])
    assert 0.93 < covered < 0.97


def test_the_same_numbers_as_scikit_learn() -> None:
    from sklearn import metrics

    generator = np.random.default_rng(1)
    probabilities = generator.dirichlet(np.ones(5), 300)
    labels = generator.integers(0, 4, 300)  # the fifth class has no image, but is predicted
    predicted = probabilities.argmax(axis=1)
    ours = score(probabilities, labels, names(5))
    assert ours.accuracy == pytest.approx(metrics.accuracy_score(labels, predicted))
    with pytest.warns(UserWarning, match="y_pred contains classes"):
        assert ours.balanced_accuracy == pytest.approx(metrics.balanced_accuracy_score(labels, predicted))
    assert ours.macro_f1 == pytest.approx(
        metrics.f1_score(labels, predicted, average="macro", zero_division=0)
    )
    assert ours.nll == pytest.approx(metrics.log_loss(labels, probabilities, labels=range(5)))
    assert np.array_equal(ours.confusion, metrics.confusion_matrix(labels, predicted))
    table = metrics.precision_recall_fscore_support(labels, predicted, labels=range(5), zero_division=0)
    rows = [[r.precision, r.recall, r.f1, r.support] for r in ours.per_class]
    assert np.allclose(rows, np.transpose(table))


def test_a_class_nobody_has_or_predicts_costs_nothing() -> None:
    probabilities, labels = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0]]), np.array([0, 1])
    scores = score(probabilities, labels, ["a", "b", "unseen"])
    assert scores.macro_f1 == scores.balanced_accuracy == 1


def test_calibrated_probabilities_have_almost_no_calibration_error() -> None:
    generator = np.random.default_rng(2)
    confidence = generator.uniform(0.5, 1, 200_000)
    labels = (generator.uniform(size=len(confidence)) > confidence).astype(int)  # right with that probability
    error, bins = calibration(np.stack([confidence, 1 - confidence], axis=1), labels)
    assert error < 0.01
    assert bins[:, 0].sum() == len(labels)


def test_overconfidence_is_measured_as_its_gap() -> None:
    labels = np.repeat([0, 1], [60, 40])
    probabilities = np.tile([0.9, 0.1], (100, 1))
    error, bins = calibration(probabilities, labels)
    assert error == pytest.approx(0.3)
    assert bins[13] == pytest.approx([100, 0.9, 0.6])


def test_a_certain_mistake_keeps_the_log_loss_finite() -> None:
    scores = score(np.array([[1.0, 0.0]]), np.array([1]), ["a", "b"])
    assert scores.brier == pytest.approx(2)
    assert 20 < scores.nll < 30
