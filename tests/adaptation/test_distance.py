"""The proxy A-distance: 0 for one cloud, 2 for two."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.adaptation.distance import proxy_a_distance, told_apart
from graft.evaluation.embedding import separability


def clouds(
    apart: float, sizes: tuple[int, int] = (150, 150), width: int = 8
) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    source, target = (generator.normal(size=(size, width)).astype(np.float32) for size in sizes)
    return source, target + np.float32(apart) * np.eye(width, dtype=np.float32)[0]


def test_one_cloud_is_near_and_two_are_far() -> None:
    distances = [proxy_a_distance(*clouds(apart), seed=0) for apart in (0, 0.5, 1, 2, 8)]
    assert distances == sorted(distances)
    assert distances[0] == pytest.approx(0, abs=0.2)
    assert distances[-1] == pytest.approx(2, abs=0.01)


def test_it_is_what_the_error_of_the_best_line_makes_it() -> None:
    """Unit clouds 2 apart: a line errs Phi(-1) = 0.1587, so 2 (1 - 0.3173)."""
    assert proxy_a_distance(*clouds(2, (1500, 1500), 2), seed=0) == pytest.approx(1.365, abs=0.08)


@pytest.mark.parametrize(("apart", "distance"), [(0, 0.0), (2, 1.365)])
def test_a_large_domain_beside_a_small_one_is_as_far_as_two_of_a_size(apart: float, distance: float) -> None:
    """With the plain error, always saying "source" would already give 1.75."""
    assert proxy_a_distance(*clouds(apart, (1400, 100), 2), seed=0) == pytest.approx(distance, abs=0.2)


@pytest.mark.parametrize("sizes", [(4, 50), (50, 4), (0, 50)])
def test_too_few_images_have_no_distance(sizes: tuple[int, int]) -> None:
    assert proxy_a_distance(*clouds(1, sizes), seed=0) is None


@given(st.floats(0.01, 1000), st.floats(-1000, 1000), st.integers(0, 99))
@settings(max_examples=5, deadline=None)
def test_the_scale_of_features_does_not_matter(scale: float, offset: float, seed: int) -> None:
    source, target = clouds(1, (20, 20), 3)
    found = proxy_a_distance(source, target, seed=seed)
    moved = proxy_a_distance(source * scale + offset, target * scale + offset, seed=seed)
    assert found is not None
    assert 0 <= found <= 2
    assert moved == pytest.approx(found, abs=0.21)  # rounding may move an image over the line


def test_a_feature_that_never_varies_is_harmless() -> None:
    source, target = (np.pad(each, ((0, 0), (0, 3))) for each in clouds(8))
    assert proxy_a_distance(source, target, seed=0) == pytest.approx(2, abs=0.01)


def test_the_report_measures_the_same() -> None:
    source, target = clouds(1)
    both, of_target = np.concatenate([source, target]), np.arange(300) >= 150
    assert separability(both, of_target) == told_apart(both, of_target, seed=0)
