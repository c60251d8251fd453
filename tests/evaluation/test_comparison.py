"""Paired comparison: exact where it must be, and as often right as it says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import norm

from graft.evaluation.comparison import chance, compare, mcnemar, paired_bootstrap, selection_optimism

pairs = st.integers(1, 200).flatmap(
    lambda n: st.tuples(
        arrays(np.bool_, n, elements=st.booleans()), arrays(np.bool_, n, elements=st.booleans())
    )
)


@given(pairs)
@settings(deadline=None)
def test_identical_predictions_differ_by_exactly_nothing(pair: tuple[np.ndarray, np.ndarray]) -> None:
    one = compare(pair[0], pair[0], resamples=200, seed=0)
    assert (one.difference, one.interval, one.p_value) == (0.0, (0.0, 0.0), 1.0)


@given(pairs, st.integers(0, 99))
@settings(deadline=None)
def test_the_order_of_images_does_not_matter(pair: tuple[np.ndarray, np.ndarray], seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(pair[0]))
    shuffled = compare(pair[0][order], pair[1][order], resamples=200, seed=0)
    assert shuffled == compare(*pair, resamples=200, seed=0)


@given(pairs)
@settings(deadline=None)
def test_turning_the_comparison_round_turns_its_sign(pair: tuple[np.ndarray, np.ndarray]) -> None:
    one, other = compare(*pair, resamples=200, seed=0), compare(*pair[::-1], resamples=200, seed=0)
    assert one.difference == -other.difference
    assert one.p_value == pytest.approx(other.p_value)
    assert (one.only_challenger, one.only_other) == (other.only_other, other.only_challenger)


@given(st.integers(0, 60), st.integers(0, 60))
@settings(deadline=None)
def test_mcnemar_is_symmetric_and_a_probability(gained: int, lost: int) -> None:
    assert 0 < mcnemar(gained, lost) <= 1
    assert mcnemar(gained, lost) == pytest.approx(mcnemar(lost, gained))


def test_mcnemar_counts_coins() -> None:
    assert mcnemar(0, 5) == pytest.approx(2 / 32)
    assert mcnemar(10, 10) == pytest.approx(1)
    assert mcnemar(30, 5) < 0.0001


@given(st.integers(0, 60), st.integers(0, 60))
@settings(deadline=None)
def test_without_tolerance_chance_is_half_of_mcnemars_two_sides(gained: int, lost: int) -> None:
    if gained > lost:
        assert 2 * chance(gained, lost, 200) == pytest.approx(mcnemar(gained, lost))
    else:
        assert chance(gained, lost, 200) >= 0.5


counts = st.tuples(st.integers(0, 40), st.integers(0, 40))


@given(counts, st.floats(0.001, 0.5), st.floats(0.001, 0.5))
@settings(deadline=None)
def test_more_tolerance_is_easier(pair: tuple[int, int], one: float, other: float) -> None:
    strict, loose = (chance(*pair, 80, tolerance=each) for each in sorted((one, other)))
    assert loose <= strict + 1e-9


@pytest.mark.parametrize(("gained", "lost", "images"), [(12, 9, 200), (0, 3, 100), (5, 0, 60), (0, 0, 50)])
def test_the_score_test_uses_the_most_likely_shares(gained: int, lost: int, images: int) -> None:
    """Tango's closed form against a search over the likelihood."""
    tolerance, tied = 0.05, images - gained - lost
    shares = np.linspace(tolerance, (1 + tolerance) / 2, 400_001)[1:-1]  # lost; gained = lost - tolerance
    won = shares - tolerance
    likelihood = lost * np.log(shares) + gained * np.log(won) + tied * np.log1p(-won - shares)
    share = tolerance if gained == 0 and lost <= tolerance * images else shares[likelihood.argmax()]
    spread = np.sqrt(images * (2 * share - tolerance - tolerance**2))
    expected = norm.sf((gained - lost + images * tolerance) / spread)
    assert chance(gained, lost, images, tolerance=tolerance) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("differing", [0.01, 0.03, 0.1])
def test_equals_are_told_apart_in_at_most_one_of_forty(differing: float) -> None:
    generator = np.random.default_rng(6)
    drawn = generator.multinomial(500, [differing / 2, differing / 2, 1 - differing], 4000)
    promoted = np.mean([chance(gained, lost, 500) <= 0.025 for gained, lost, _ in drawn.tolist()])
    assert promoted < 0.03


def test_drawing_counts_is_the_bootstrap_of_images() -> None:
    generator = np.random.default_rng(0)
    difference = generator.choice([1, 0, -1], p=[0.2, 0.7, 0.1], size=300)
    drawn = generator.integers(0, 300, (4000, 300))
    images = np.quantile(difference[drawn].mean(axis=1), [0.025, 0.975])
    gained, lost = int((difference == 1).sum()), int((difference == -1).sum())
    counts = paired_bootstrap(gained, lost, 300, resamples=4000, seed=1)
    assert counts == pytest.approx(tuple(images), abs=0.008)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(3)
    counts = generator.multinomial(400, [0.15, 0.10, 0.75], 400)
    held = [
        low <= 0.05 <= high
        for gained, lost, _ in counts.tolist()
        for low, high in [paired_bootstrap(gained, lost, 400, resamples=500, seed=0)]
    ]
    assert 0.91 < np.mean(held) < 0.98


def test_choosing_the_best_of_equals_flatters_it_and_choosing_of_one_does_not() -> None:
    right = np.random.default_rng(4).uniform(size=(8, 200)) < 0.7
    assert selection_optimism(right[:1], resamples=2000, seed=0) < 0.002
    assert 0.01 < selection_optimism(right, resamples=2000, seed=0) < 0.08


def test_a_clear_winner_is_hardly_flattered() -> None:
    generator = np.random.default_rng(5)
    right = np.stack([generator.uniform(size=500) < share for share in (0.3, 0.4, 0.9)])
    assert selection_optimism(right, resamples=2000, seed=0) < 0.003
