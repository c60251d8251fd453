"""The two scores against independent ways to reckon them, and what must not change them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import multivariate_normal, ortho_group
from sklearn.covariance import LedoitWolf

from graft.backbones.transferability import h_score, log_me


def problem(n: int, d: int, classes: int, signal: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, d) of classes whose means lie about `signal` apart; every class occurs."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    return rng.normal(size=(n, d)) + signal * rng.normal(size=(classes, d))[labels], labels


def evidence_by_optimisation(features: np.ndarray, labels: np.ndarray) -> float:
    """Mean over classes of max log N(y; 0, F F' / a + I / b) / N: the marginal density itself."""
    n = len(labels)

    def loss(logs: np.ndarray, y: np.ndarray) -> float:
        covariance = features @ features.T * np.exp(-logs[0]) + np.eye(n) * np.exp(-logs[1])
        return -float(multivariate_normal.logpdf(y, np.zeros(n), covariance)) / n

    values = []
    for label in np.unique(labels):
        y = (labels == label).astype(float)
        fits = [
            minimize(loss, start, (y,), method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-10})
            for start in ([0.0, 1.0], [5.0, 1.0])
        ]
        values.append(-min(fit.fun for fit in fits))
    return float(np.mean(values))


@pytest.mark.parametrize(
    ("n", "d", "classes", "signal"), [(40, 5, 3, 0.8), (30, 12, 2, 0.3), (20, 30, 2, 0.5), (36, 4, 4, 0.0)]
)
def test_log_me_is_the_maximum_of_the_evidence(n: int, d: int, classes: int, signal: float) -> None:
    features, labels = problem(n, d, classes, signal, seed=n)
    assert log_me(features, labels) == pytest.approx(evidence_by_optimisation(features, labels), abs=1e-5)


@pytest.mark.parametrize(("n", "d", "classes"), [(60, 8, 3), (25, 40, 2), (50, 50, 5)])
def test_h_score_is_the_trace_it_says(n: int, d: int, classes: int) -> None:
    features, labels = problem(n, d, classes, 0.7, seed=d)
    estimate = LedoitWolf().fit(features)
    means = np.stack([features[labels == label].mean(0) for label in labels])
    between = np.cov(means.T, bias=True)
    expected = (1 - estimate.shrinkage_) * np.trace(np.linalg.solve(estimate.covariance_, between))
    assert h_score(features, labels) == pytest.approx(expected, rel=1e-9)


problems = st.builds(
    problem,
    n=st.integers(8, 40),
    d=st.integers(2, 24),
    classes=st.integers(2, 4),
    signal=st.sampled_from([0.0, 0.5, 3.0]),
    seed=st.integers(0, 10**6),
)


@settings(max_examples=40, deadline=None)
@given(problems, st.integers(0, 10**6))
def test_neither_axes_nor_order_nor_names_of_classes_matter(
    given_problem: tuple[np.ndarray, np.ndarray], seed: int
) -> None:
    features, labels = given_problem
    rotation = ortho_group.rvs(features.shape[1], random_state=seed)
    order = np.random.default_rng(seed).permutation(len(labels))
    names = np.array(["owl", "ant", "bee", "cat"])[labels]
    for score in (log_me, h_score):
        expected = pytest.approx(score(features, labels), rel=1e-6, abs=1e-6)
        assert score(features @ rotation, labels) == expected
        assert score(features[order], labels[order]) == expected
        assert score(features, names) == expected


@settings(max_examples=25, deadline=None)
@given(st.integers(10, 60), st.integers(0, 10**6), st.sampled_from([1e-3, 1.0, 1e3]))
def test_log_me_takes_any_unit_of_the_features(n: int, seed: int, unit: float) -> None:
    features, labels = problem(n, 6, 2, 1.0, seed)
    assert log_me(unit * features, labels) == pytest.approx(log_me(features, labels), abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 5), st.integers(4, 60), st.integers(0, 10**6))
def test_informative_features_score_above_noise(classes: int, d: int, seed: int) -> None:
    features, labels = problem(120, d, classes, 2.0, seed)
    noise, _ = problem(120, d, classes, 0.0, seed + 1)
    assert log_me(features, labels) > log_me(noise, labels)
    assert h_score(features, labels) > h_score(noise, labels)
    assert 0 <= h_score(noise, labels) <= h_score(features, labels) <= classes - 1 + 1e-9


@pytest.mark.parametrize("shape", [(12, 3), (6, 40)])
def test_features_that_say_everything_or_nothing_have_finite_scores(shape: tuple[int, int]) -> None:
    labels = np.arange(shape[0]) % 2
    perfect = np.zeros(shape) + labels[:, None]
    assert np.isfinite([log_me(perfect, labels), h_score(perfect, labels)]).all()
    nothing = np.zeros(shape)
    assert np.isfinite(log_me(nothing, labels))
    assert h_score(nothing, labels) == 0
    assert log_me(perfect, labels) > log_me(nothing, labels)


@pytest.mark.parametrize(
    ("features", "labels", "reason"),
    [
        (np.ones((3, 2)), [0, 1], "are not"),
        (np.ones(3), [0, 1, 0], "are not"),
        (np.full((2, 2), np.nan), [0, 1], "finite"),
        (np.ones((3, 2)), [1, 1, 1], "1 class"),
    ],
)
def test_what_cannot_be_scored_is_refused(features: np.ndarray, labels: list[int], reason: str) -> None:
    for score in (log_me, h_score):
        with pytest.raises(ValueError, match=reason):
            score(features, labels)
