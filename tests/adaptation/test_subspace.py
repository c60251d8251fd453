from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from graft.adaptation.frozen import standards
from graft.adaptation.subspace import subspace, subspace_alignment
from graft.errors import GraftError
from graft.images.table import ImageTable
from graft.params import DomainAdaptation
from graft.params.sections import Subspace
from tests.adaptation.shifts import scores, seen
from tests.methods.learning import classifier


def along(direction: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Three classes at -5, 0 and 5 along a direction, with little around it."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(240) % 3)
    place = 5 * (labels - 1) + 0.3 * rng.normal(size=240)
    return np.outer(place, direction) + 0.05 * rng.normal(size=(240, len(direction))), labels


def random(count: int, width: int, rank: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values: np.ndarray = rng.normal(size=(count, rank)) @ rng.normal(size=(rank, width)) + 4
    return values


@pytest.mark.parametrize("dimensions", [1, None])
def test_classes_along_another_direction_are_found(dimensions: int | None) -> None:
    """The target's direction makes 73 degrees with the source's: seen along that, all is in the middle."""
    ones = np.ones(20) / np.sqrt(20)
    flipped = ones * np.where(np.arange(20) < 7, -1, 1)
    source, labels = along(ones, 0)
    target, target_labels = along(flipped, 1)
    align = partial(subspace_alignment, dimensions=dimensions)
    before, after = scores(seen(source, labels, target), target_labels, align)
    assert before < 0.6
    assert after > 0.95


def test_the_source_goes_the_written_out_way() -> None:
    source, target = random(50, 8, 8, 0), random(40, 8, 8, 1)
    alignment = subspace_alignment(source, target, dimensions=3)
    (z_s, z_t) = (space(x) for space, x in zip(standards(source, target), (source, target), strict=True))
    p_s, p_t = (np.linalg.svd(z, full_matrices=False)[2][:3].T for z in (z_s, z_t))
    # Signs and order of directions are free; both products of coordinates are not.
    made_s, made_t = alignment.source(source), alignment.target(target)
    written_s, written_t = z_s @ p_s @ p_s.T @ p_t, z_t @ p_t
    assert made_s @ made_t.T == pytest.approx(written_s @ written_t.T, abs=1e-8)
    assert made_t @ made_t.T == pytest.approx(written_t @ written_t.T, abs=1e-8)


@pytest.mark.parametrize(("ranks", "expected"), [((3, 2), 2), ((2, 5), 2), ((4, 4), 4)])
def test_auto_takes_what_both_domains_have(ranks: tuple[int, int], expected: int) -> None:
    source, target = random(60, 8, ranks[0], 0), random(60, 8, ranks[1], 1)
    basis = subspace_alignment(source, target).target.basis
    assert basis is not None
    assert basis.shape == (8, expected)
    assert basis.T @ basis == pytest.approx(np.eye(expected), abs=1e-8)


def test_auto_stops_at_99_percent() -> None:
    rng = np.random.default_rng(0)
    common = rng.normal(size=(200, 1)) * [3.0, 3.0, 3.0, 3.0]
    features = common + 0.01 * rng.normal(size=(200, 4))
    basis = subspace_alignment(features, features[::2]).target.basis
    assert basis is not None
    assert basis.shape == (4, 1)


def test_more_dimensions_than_there_are() -> None:
    source, target = random(60, 8, 5, 0), random(60, 8, 3, 1)
    with pytest.raises(GraftError, match=r"4 dimensions are wanted.*5 directions.* 3 in.*\n.*to 3 or less"):
        subspace_alignment(source, target, dimensions=4)


def test_equal_domains_are_left_alone() -> None:
    features = random(50, 6, 6, 2)
    alignment = subspace_alignment(features, features, dimensions=4)
    assert alignment.source(features) == pytest.approx(alignment.target(features), abs=1e-9)


def test_the_dimensions_are_told(table: ImageTable) -> None:
    model = classifier(table)
    made, rows = subspace(table, model, DomainAdaptation(subspace=Subspace(dimensions=7)))
    assert made.trunk is model.trunk
    assert {row["dimensions"] for row in rows} == {7}
