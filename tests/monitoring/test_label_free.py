"""Accuracy without labels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from graft.monitoring.label_free import doubt, passing, predict_accuracy


def test_a_constructed_case_is_exact() -> None:
    doubts = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
    right = np.array([True, True, False, True, False])  # 3 of 5, so the threshold lies between 0.3 and 0.4
    new = np.array([0.05, 0.34, 0.36, 0.9])
    found = predict_accuracy(doubts, right, new, seed=0)
    assert found.measured == 0.6
    assert found.threshold == pytest.approx(0.65)
    assert found.predicted == 0.5
    assert found.drop == pytest.approx(0.1)
    assert found.interval[0] <= 0.5 <= found.interval[1]


@given(arrays(np.float64, 30, elements=st.sampled_from([0.0, 0.1, 0.25, 0.5])), arrays(np.bool_, 30))
@settings(max_examples=60, deadline=None)
def test_the_labelled_images_themselves_give_the_measured_accuracy_ties_or_not(
    doubts: np.ndarray, right: np.ndarray
) -> None:
    assert passing(doubts[None], right[None], doubts[None])[0] == pytest.approx(right.mean())


@pytest.mark.parametrize("right", [True, False])
def test_all_right_and_all_wrong(right: bool) -> None:
    doubts = np.linspace(0.1, 0.4, 25)
    found = predict_accuracy(doubts, np.full(25, right), doubts, seed=0)
    assert found.measured == found.predicted == float(right)


def test_a_fall_beyond_noise_has_a_small_p_value_and_none_a_large_one() -> None:
    generator = np.random.default_rng(0)
    doubts = generator.beta(1, 6, 400)
    right = generator.random(400) > doubts
    same = predict_accuracy(doubts, right, generator.beta(1, 6, 400), seed=0)
    worse = predict_accuracy(doubts, right, generator.beta(3, 4, 400), seed=0)
    assert same.p_value > 0.05
    assert same.predicted == pytest.approx(same.measured, abs=0.05)
    assert 0 < worse.p_value < 0.001
    assert worse.drop > 0.2
    assert worse.drop_interval[0] > 0


def test_false_alarms_are_as_rare_as_promised() -> None:
    alarms = 0
    for seed in range(60):
        generator = np.random.default_rng(seed)
        doubts = generator.beta(1, 6, 150)
        right = generator.random(150) > doubts
        alarms += predict_accuracy(doubts, right, generator.beta(1, 6, 60), seed=seed).p_value < 0.1
    assert alarms <= 15  # binomial of 60 and 0.1: more in one of a thousand


def test_doubt_keeps_its_digits() -> None:
    probabilities = np.array([[1.0, 1e-12, 2e-12], [0.2, 0.5, 0.3]], dtype=np.float32)
    assert doubt(probabilities) == pytest.approx([3e-12, 0.5], rel=1e-5)
