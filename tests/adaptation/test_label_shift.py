"""Class shares of the target, against shares that are known."""

from __future__ import annotations

import json
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.adaptation import label_shift as module
from graft.adaptation.evidence import Evidence
from graft.adaptation.label_shift import LabelShift, _calibrate, _estimate, label_shift
from tests.adaptation.blobs import answers

TRUTH = np.array([0.6, 0.3, 0.08, 0.02])

quickly = mock.patch.object(module, "RESAMPLES", 25)  # where intervals matter little


def draw(counts: np.ndarray, *, apart: float, scale: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images of given counts per class, and the best classifier's logits, `scale` times too large."""
    labels = np.repeat(np.arange(len(counts)), counts)
    centres = apart * np.eye(len(counts))
    features = centres[labels] + np.random.default_rng(seed).normal(size=(len(labels), len(counts)))
    return scale * features @ centres.T, labels


def shifted(
    apart: float = 2.0, scale: float = 3.0, seed: int = 0, source: np.ndarray | None = None, images: int = 500
) -> Evidence:
    counts = np.full(4, 100) if source is None else source
    known = answers(*draw(counts, apart=apart, scale=scale, seed=seed))
    wanted = (TRUTH * images).round().astype(int)
    logits, _ = draw(wanted, apart=apart, scale=scale, seed=seed + 1000)
    return Evidence(known, known, answers(logits), None)


@pytest.mark.parametrize(("apart", "scale"), [(1.0, 3.0), (2.0, 0.3), (2.0, 3.0), (4.0, 0.3)])
def test_known_shares_are_recovered_from_an_overconfident_or_timid_classifier(
    apart: float, scale: float
) -> None:
    evidence = shifted(apart, scale)
    found = label_shift(evidence, seed=0)
    assert np.abs(found.shares - TRUTH).max() < 0.1
    assert np.abs(found.shares - TRUTH).sum() / 2 < 0.1
    assert found.source == pytest.approx(np.full(4, 0.25))
    assert found.distance == pytest.approx(np.abs(TRUTH - 0.25).sum() / 2, abs=0.1)
    assert ((found.low - 0.02 <= TRUTH) & (found.high + 0.02 >= TRUTH)).all()


@quickly
def test_it_comes_nearer_than_counting_answers() -> None:
    """Where classes overlap, answers drift towards the source's shares."""
    estimated, counted = [], []
    for seed in range(3):
        evidence = shifted(1.0, seed=seed)
        answered = np.bincount(evidence.target.logits.argmax(1), minlength=4) / len(evidence.target.logits)
        estimated.append(np.abs(label_shift(evidence, seed=0).shares - TRUTH).sum())
        counted.append(np.abs(answered - TRUTH).sum())
    assert np.mean(estimated) < 0.7 * np.mean(counted)


def test_no_shift_is_no_distance() -> None:
    source = answers(*draw(np.array([300, 100, 50, 50]), apart=2.0, scale=3.0, seed=0))
    other, _ = draw(np.array([300, 100, 50, 50]), apart=2.0, scale=3.0, seed=1)
    found = label_shift(Evidence(source, source, answers(other), None), seed=0)
    assert found.distance < 0.05
    assert ((found.low <= found.source) & (found.source <= found.high)).all()


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    held, width = [], []
    with mock.patch.object(module, "RESAMPLES", 60):
        for seed in range(8):
            found = label_shift(shifted(seed=seed), seed=seed)
            held.append((found.low <= TRUTH) & (found.high >= TRUTH))
            width.append(found.high - found.low)
    assert np.mean(held) > 0.85
    assert np.mean(width) < 0.12


def test_the_fixed_point_is_the_written_out_one() -> None:
    """Two classes told apart for sure: counts of 3 and 1, and two imagined images shared out evenly."""
    known, unknown = 100 * np.eye(2), 100 * np.eye(2)[[0, 0, 0, 1]]
    assert _estimate(known, unknown, np.zeros(3)) == pytest.approx([4 / 6, 2 / 6])


def test_calibration_finds_the_temperature_and_the_bias_that_spoilt_the_answers() -> None:
    logits, labels = draw(np.full(3, 2000), apart=1.5, scale=1.0, seed=0)
    bias = np.array([1.0, -1.0, 0.0])
    calibration = _calibrate(4 * (logits - bias), labels, np.zeros(4))
    assert np.exp(calibration[0]) == pytest.approx(4, rel=0.1)
    assert calibration[1:] - calibration[1:].mean() == pytest.approx(bias, abs=0.15)


@quickly
@pytest.mark.parametrize("absent", [[3], [0, 2], [1, 2, 3]])
def test_classes_without_a_source_image_have_no_share(absent: list[int]) -> None:
    counts = np.full(4, 30)
    counts[absent] = 0
    found = label_shift(shifted(source=counts, images=60), seed=0)
    assert found.shares.sum() == pytest.approx(1)
    for values in (found.shares, found.source, found.low, found.high):
        assert not values[absent].any()


@quickly
@given(st.integers(2, 5), st.integers(1, 25), st.integers(1, 25), st.floats(0.01, 100), st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_shares_sum_to_one_and_lie_in_their_intervals_range(
    classes: int, known: int, unknown: int, scale: float, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    source = answers(scale * generator.normal(size=(known, classes)), generator.integers(0, classes, known))
    target = answers(scale * generator.normal(size=(unknown, classes)))
    found = label_shift(Evidence(source, source, target, None), seed=seed)
    for shares in (found.shares, found.source):
        assert shares.sum() == pytest.approx(1)
        assert (shares >= 0).all()
    assert ((found.low >= 0) & (found.low <= found.high) & (found.high <= 1 + 1e-9)).all()
    assert 0 <= found.distance <= 1


def test_the_order_of_images_and_of_classes_does_not_matter() -> None:
    evidence = shifted(1.0, images=100)
    source, target, order = evidence.source, evidence.target, np.array([2, 0, 3, 1])
    generator = np.random.default_rng(0)
    rows, others = generator.permutation(len(source.labels)), generator.permutation(len(target.labels))
    moved = Evidence(
        source,
        answers(source.logits[rows][:, order], np.argsort(order)[source.labels[rows]]),
        answers(target.logits[others][:, order]),
        None,
    )
    expected, found = label_shift(evidence, seed=0), label_shift(moved, seed=0)
    assert found.shares == pytest.approx(expected.shares[order], abs=1e-4)
    assert found.source == pytest.approx(expected.source[order])
    assert found.low == pytest.approx(expected.low[order], abs=0.1)  # drawn, so alike only
    assert found.high == pytest.approx(expected.high[order], abs=0.1)


@quickly
def test_the_same_seed_gives_the_same_numbers_and_json_keeps_them() -> None:
    evidence = shifted(images=50)
    one, other = (label_shift(evidence, seed=3) for _ in range(2))
    assert one.to_dict() == other.to_dict()
    stored = json.loads(json.dumps(one.to_dict()))
    again = LabelShift(
        **{name: np.array(stored[name]) for name in ("shares", "source", "low", "high")},
        distance=stored["distance"],
    )
    assert again.to_dict() == stored
    assert label_shift(evidence, seed=4).low.tolist() != one.low.tolist()


@pytest.mark.parametrize("kind", ["source", "target"])
def test_empty_or_broken_answers_are_refused(kind: str) -> None:
    good = answers(np.eye(3), np.arange(3))
    for bad, message in (
        (answers(np.zeros((0, 3)), np.zeros(0, int)), f"no {kind} images"),
        (answers(np.full((3, 3), np.nan), np.arange(3)), f"{kind} images are not finite"),
    ):
        parts = {"learned": good, "source": good, "target": good, "labelled": None} | {kind: bad}
        with pytest.raises(ValueError, match=message):
            label_shift(Evidence(**parts), seed=0)
