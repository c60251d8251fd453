from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import fractional_matrix_power

from graft.adaptation.coral import coral, covariance_alignment
from graft.images.table import ImageTable
from graft.methods.recolouring import recolour
from graft.params import DomainAdaptation
from tests.adaptation.shifts import scores, seen
from tests.methods.learning import classifier


def mixed(count: int, width: int, rng: np.random.Generator) -> np.ndarray:
    mixing = np.eye(width) + 0.4 * rng.normal(size=(width, width))
    values: np.ndarray = rng.normal(size=(count, width)) @ mixing + 10 * rng.normal(size=width)
    return values


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), width=st.integers(1, 8), count=st.integers(30, 60))
def test_without_a_ridge_the_covariances_become_equal(seed: int, width: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    source, target = mixed(count, width, rng), mixed(count + 5, width, rng)
    made = recolour(source, target, ridge=0.0)
    scale = np.abs(np.cov(target.T)).max()
    assert np.abs(np.cov(made.T) - np.cov(target.T)).max() < 1e-6 * scale
    assert made.mean(0) == pytest.approx(target.mean(0))


@pytest.mark.parametrize("count", [7, 40])
def test_the_map_is_the_written_out_one(count: int) -> None:
    """With fewer images than features too, where the matrices are never made."""
    rng = np.random.default_rng(0)
    source, target = mixed(count, 12, rng), mixed(count + 1, 12, rng)
    whiten = fractional_matrix_power(np.cov(source.T) + np.eye(12), -0.5)
    colour = fractional_matrix_power(np.cov(target.T) + np.eye(12), 0.5)
    written = (source - source.mean(0)) @ whiten @ colour + target.mean(0)
    assert recolour(source, target) == pytest.approx(written, abs=1e-8)


def test_a_change_of_covariance_alone_is_undone() -> None:
    """x = z S with S symmetric and cov z = I: whitening gives z back, whichever S it was.

    Five classes lie along z_0. Both S give every feature the same variance, so that standardising does
    not help, and their eigenvectors are the same.
    """
    rng = np.random.default_rng(0)
    turned = np.array([[0, 0.6], [0.6, 0]])
    labels, latent = [], []
    for _ in range(2):
        labels.append(rng.permutation(np.arange(300) % 5))
        level = (labels[-1] - 2) / np.sqrt(2) + 0.03 * rng.normal(size=300)
        latent.append(np.stack([level, rng.normal(size=300)], 1))
    known = seen(latent[0] @ (np.eye(2) + turned), labels[0], latent[1] @ (np.eye(2) - turned))
    before, after = scores(known, labels[1], partial(covariance_alignment, ridge=0.0))
    assert before < 0.6
    assert after > 0.95


def test_equal_domains_are_left_alone() -> None:
    features = mixed(50, 6, np.random.default_rng(3))
    alignment = covariance_alignment(features, features)
    assert alignment.source(features) == pytest.approx(alignment.target(features), abs=1e-9)


def test_the_trunk_stays_and_the_strengths_are_told(table: ImageTable) -> None:
    model = classifier(table)
    made, rows = coral(table, model, DomainAdaptation())
    assert made.trunk is model.trunk
    assert len(rows) > 1
    assert all({"C", "val_accuracy", "val_loss"} <= set(row) for row in rows)
