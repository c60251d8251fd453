"""The tests of samples: honest where nothing differs, awake where something does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import binom, kstest

from graft.monitoring.shift import class_shift, unusualness
from graft.monitoring.two_sample import classifier_test, mmd_test, standardise

SEEDS = 60
LEVEL = 0.1
# With the right level, more alarms than this happen in one of a thousand such tests.
MOST_ALARMS = int(binom.ppf(0.999, SEEDS, LEVEL))
features = arrays(np.float64, (12, 3), elements=st.floats(-10, 10, width=32))


@pytest.fixture(scope="module")
def p_values() -> np.ndarray:
    """(SEEDS, 2) of both tests, on samples of one distribution and of different sizes."""
    found = []
    for seed in range(SEEDS):
        generator = np.random.default_rng(seed)
        old, new = standardise(generator.normal(size=(90, 6)), generator.normal(size=(40, 6)))
        mmd = mmd_test(old, new, permutations=199, seed=seed)
        found.append((classifier_test(old, new, seed=seed).p_value, mmd.p_value))
    return np.array(found)


def test_equal_distributions_seldom_raise_an_alarm(p_values: np.ndarray) -> None:
    assert ((p_values < LEVEL).sum(axis=0) <= MOST_ALARMS).all()


def test_p_values_of_equal_distributions_are_spread_evenly(p_values: np.ndarray) -> None:
    assert kstest(p_values[:, 1], "uniform").pvalue > 0.001
    # The classifier test's counts are whole numbers, so that its p-values may run high, never low.
    assert kstest(p_values[:, 0], "uniform", alternative="greater").pvalue > 0.001


@pytest.mark.parametrize("count", [40, 400])
def test_a_shifted_sample_is_noticed(count: int) -> None:
    generator = np.random.default_rng(0)
    old, new = standardise(generator.normal(size=(500, 6)), generator.normal(0.8, 1, (count, 6)))
    classifier, mmd = classifier_test(old, new, seed=0), mmd_test(old, new, permutations=999, seed=0)
    assert max(classifier.p_value, mmd.p_value) < 0.005
    assert classifier.accuracy > 0.7


def test_the_kernel_test_notices_what_no_line_divides() -> None:
    generator = np.random.default_rng(0)
    old, new = standardise(generator.normal(size=(200, 4)), generator.normal(0, 2, (200, 4)))
    assert mmd_test(old, new, permutations=999, seed=0).p_value == 0.001


@given(features)
@settings(max_examples=30, deadline=None)
def test_a_sample_has_no_distance_to_itself(sample: np.ndarray) -> None:
    found = mmd_test(sample, sample.copy(), permutations=49, seed=0)
    assert found.mmd == pytest.approx(0, abs=1e-3)
    assert found.p_value == 1


@given(features, features, st.integers(0, 100))
@settings(max_examples=30, deadline=None)
def test_distances_are_bounded_symmetric_and_never_impossible(
    old: np.ndarray, new: np.ndarray, seed: int
) -> None:
    one, other = (mmd_test(*pair, permutations=49, seed=seed) for pair in ((old, new), (new, old)))
    assert 0 <= one.mmd <= 2**0.5 + 1e-3
    assert one.mmd**2 == pytest.approx(other.mmd**2, abs=1e-5)
    assert 1 / 50 <= one.p_value <= 1


def test_the_same_seed_gives_the_same_numbers() -> None:
    generator = np.random.default_rng(0)
    samples = generator.normal(size=(30, 3)), generator.normal(size=(30, 3))
    first, second = (mmd_test(*samples, permutations=99, seed=5) for _ in range(2))
    assert first == second
    assert classifier_test(*samples, seed=5) == classifier_test(*samples, seed=5)


def test_class_shares_are_compared() -> None:
    old, new = np.array([0] * 50 + [1] * 50), np.array([0] * 10 + [1] * 40)
    found = class_shift(old, new, 3, seed=0)
    assert found.old.tolist() == [0.5, 0.5, 0]
    assert found.new.tolist() == [0.2, 0.8, 0]
    assert found.distance == pytest.approx(0.3)
    assert found.p_value < 0.01
    assert class_shift(old, old, 3, seed=0).p_value == 1


def test_the_strange_one_is_the_most_unusual() -> None:
    generator = np.random.default_rng(0)
    reference, new = generator.normal(size=(200, 4)), generator.normal(size=(50, 4))
    new[17] += 9
    distances = unusualness(reference, new)
    assert distances.argmax() == 17
    assert np.median(distances) == pytest.approx(1, abs=0.3)
