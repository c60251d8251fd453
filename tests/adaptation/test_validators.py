"""Label-free scores: written-out values, invariants, and which ladders of classifiers they rank."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import spearmanr

from graft.adaptation import validators
from graft.adaptation.evidence import Evidence
from graft.adaptation.validators import (
    VALIDATORS,
    clusters,
    deep_embedded,
    density,
    entropy,
    information,
    scores,
)
from graft.params import DomainAdaptation
from tests.adaptation.blobs import (
    CLASSES,
    IMAGES,
    answers,
    from_guessing_to_knowing,
    from_muddled_to_clear,
    means,
    state,
    to_target,
)

LADDERS = {"guessing": from_guessing_to_knowing, "muddled": from_muddled_to_clear}


@st.composite
def logits(draw: st.DrawFn) -> np.ndarray:
    shape = draw(st.integers(1, 12)), draw(st.integers(2, 5))
    return draw(arrays(np.float32, shape, elements=st.floats(-200, 200, width=32)))


def test_each_score_of_a_tiny_example_is_the_written_out_one() -> None:
    """Answers (3/4, 1/4), (1/4, 3/4), (1/4, 3/4)."""
    evidence = to_target(np.log([[3, 1], [1, 3], [1, 3]]))
    each = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    mean = -(5 / 12 * np.log(5 / 12) + 7 / 12 * np.log(7 / 12))
    assert entropy(evidence) == pytest.approx(-each)
    assert information(evidence) == pytest.approx(mean - each)
    # Directions (3, 1) and (1, 3) over root 10: the first sees two strangers alike, log 2. The others see
    # a stranger at 0.6 and a friend at 1, so odds of exp(0.4 / 0.05) for the friend.
    friend = 1 / (1 + np.exp(-8))
    alike = -(friend * np.log(friend) + (1 - friend) * np.log(1 - friend))
    assert density(evidence) == pytest.approx((np.log(2) + 2 * alike) / 3)


def test_accuracies_are_shares_of_right_answers() -> None:
    right = answers([[2, 1], [0, 1], [3, 0], [0, 9]], [0, 1, 1, 1])
    evidence = Evidence(right, right, right, answers([[1, 0], [1, 0]], [0, 1]))
    found = scores(evidence)
    assert found["source_accuracy"] == 0.75
    assert found["target_accuracy"] == 0.5


def test_scores_come_in_order_and_name_what_the_parameters_may_choose() -> None:
    evidence = from_guessing_to_knowing(0)[4]
    assert list(scores(evidence)) == list(VALIDATORS)
    assert list(VALIDATORS)[-1] == "target_accuracy"
    unlabelled = dataclasses.replace(evidence, labelled=None)
    assert list(scores(unlabelled)) == list(VALIDATORS)[:-1]
    for name in VALIDATORS:
        assert DomainAdaptation(choice=name).choice == name
    with pytest.raises(ValueError, match="no labelled target images"):
        validators.target_accuracy(unlabelled)


@given(logits())
@settings(deadline=None)
def test_scores_stay_in_their_ranges(values: np.ndarray) -> None:
    evidence, (images, classes) = to_target(values), values.shape
    assert -np.log(classes) - 1e-9 <= entropy(evidence) <= 0
    assert 0 <= information(evidence) <= np.log(classes) + 1e-9
    assert 0 <= density(evidence) <= np.log(max(images - 1, 1)) + 1e-9


@given(logits(), st.data())
@settings(deadline=None)
def test_the_order_of_images_and_of_classes_does_not_matter(values: np.ndarray, data: st.DataObject) -> None:
    rows, columns = (data.draw(st.permutations(range(size))) for size in values.shape)
    moved = to_target(values[rows][:, columns])
    for validator in (entropy, information, density):
        assert validator(moved) == pytest.approx(validator(to_target(values)), abs=1e-9)


def test_deep_embedded_asks_neither_for_the_order_of_classes_nor_of_held_out_images() -> None:
    evidence = from_guessing_to_knowing(0)[4]
    order, rows = np.array([2, 0, 3, 1]), np.random.default_rng(0).permutation(IMAGES)
    source = evidence.source
    moved = answers(
        source.logits[rows][:, order], np.argsort(order)[source.labels[rows]], source.features[rows]
    )
    found = deep_embedded(dataclasses.replace(evidence, source=moved))
    assert found == pytest.approx(deep_embedded(evidence))
    assert not np.isclose(found, validators.source_accuracy(evidence) - 1)  # the weights do say something


def test_deep_embedded_is_the_written_out_risk_for_known_ratios(monkeypatch: pytest.MonkeyPatch) -> None:
    """w = 2, 1, 3 and l = 1, 0, 1: mean(w l) = 5/3, cov(w l, w) = 1, var(w) = 2/3, so 5/3 - 3/2 (2 - 1)."""
    monkeypatch.setattr(validators, "_density_ratios", lambda *_: np.array([2.0, 1.0, 3.0]))
    source = answers([[0, 1], [1, 0], [0, 1]], [0, 0, 0])
    assert deep_embedded(Evidence(source, source, source, None)) == pytest.approx(-(5 / 3 - 3 / 2))


def test_the_counts_of_both_domains_do_not_move_the_density_ratio() -> None:
    """Two clouds a distance d apart: the ratio at x is exp(d x - d^2 / 2), however many images each has."""
    generator = np.random.default_rng(0)
    at = np.array([[-0.5], [0.0], [0.5], [1.0]])
    for sizes in ((4000, 1000), (1000, 4000)):
        source, target = (
            generator.normal(mean, 1, (size, 1)) for mean, size in zip((0, 1), sizes, strict=True)
        )
        ratios = validators._density_ratios(source, target, at)
        assert ratios == pytest.approx(np.exp(at[:, 0] - 0.5), rel=0.2)


def test_deep_embedded_estimates_the_target_error_where_only_the_features_shift() -> None:
    """A classifier that is wrong for x > 0 only; the source has few such images, the target many."""
    generator = np.random.default_rng(0)

    def ask(mean: float) -> tuple[np.ndarray, np.ndarray]:
        x = generator.normal(mean, 1, (500, 1))
        return x, np.repeat([[0.0, 1.0]], 500, axis=0)

    (held, said), (learned, _), (target, _) = ask(-0.5), ask(-0.5), ask(0.7)
    source = answers(said, (held[:, 0] <= 0).astype(int), held)
    evidence = Evidence(answers(said, None, learned), source, answers(said, None, target), None)
    truth = float((target > 0).mean())
    assert 1 - validators.source_accuracy(evidence) < 0.35 < 0.7 < truth
    assert -deep_embedded(evidence) == pytest.approx(truth, abs=0.08)


@pytest.mark.parametrize("distance", [0.0, 1e6])
def test_ratios_without_variance_leave_the_source_error(distance: float) -> None:
    """Features that all agree within a domain, alike in both or worlds apart."""
    source = answers([[0, 1], [1, 0]] * 5, [0] * 10, np.zeros((10, 3)))
    target = answers(source.logits, None, np.full((10, 3), distance))
    assert deep_embedded(Evidence(source, source, target, None)) == pytest.approx(-0.5)
    few = answers(source.logits[:3], None, np.arange(9).reshape(3, 3))
    assert deep_embedded(Evidence(source, source, few, None)) == pytest.approx(-0.5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("kind", ["source", "target", "labelled"])
def test_answers_that_are_not_finite_are_refused(kind: str, bad: float) -> None:
    good = answers(np.eye(6), np.arange(6))
    broken = answers(np.where(np.eye(6) == 1, bad, 0), np.arange(6))
    evidence = dataclasses.replace(Evidence(good, good, good, good), **{kind: broken})
    with pytest.raises(ValueError, match=r"target|source"):
        scores(evidence)


def test_no_images_are_refused() -> None:
    good = answers(np.eye(6), np.arange(6))
    empty = answers(np.zeros((0, 6)), np.zeros(0, int))
    for kind in ("learned", "source", "target"):
        with pytest.raises(ValueError, match=f"no {kind} images"):
            scores(dataclasses.replace(Evidence(good, good, good, None), **{kind: empty}))


@pytest.fixture(scope="module")
def ranks() -> dict[str, dict[str, float]]:
    """Per ladder and validator: mean Spearman correlation with the target accuracy over two draws."""
    found = {}
    for ladder, climb in LADDERS.items():
        draws = []
        for seed in range(2):
            rungs = [scores(each) for each in climb(seed)]
            columns = {name: [rung[name] for rung in rungs] for name in VALIDATORS}
            truth = columns["target_accuracy"]
            assert truth[-1] > 0.8 > 0.5 > truth[0]
            draws.append({name: _agreement(column, truth) for name, column in columns.items()})
        found[ladder] = {name: float(np.mean([draw[name] for draw in draws])) for name in VALIDATORS}
    return found


def _agreement(column: list[float], truth: list[float]) -> float:
    return float(spearmanr(column, truth).statistic) if len(set(column)) > 1 else 0.0


@pytest.mark.parametrize(
    ("ladder", "validator"),
    [
        ("guessing", "source_accuracy"),
        ("guessing", "information"),
        ("guessing", "deep_embedded"),
        ("guessing", "clusters"),
        ("muddled", "entropy"),
        ("muddled", "information"),
        ("muddled", "density"),
        ("muddled", "clusters"),
    ],
)
def test_a_ladder_is_ranked_as_the_target_accuracy_ranks_it(
    ranks: dict[str, dict[str, float]], ladder: str, validator: str
) -> None:
    assert ranks[ladder][validator] > 0.85


def test_answers_that_are_the_clusters_score_1_whatever_they_are_called() -> None:
    """Three clouds of ten images; classes 0, 1, 2, then called 2, 0, 1, then drawn at random."""
    centres = 10 * np.repeat(np.eye(3), 10, axis=0)
    features = centres + np.random.default_rng(0).normal(0, 0.1, centres.shape)
    source = answers(np.eye(3), [0, 1, 2])

    def score(logits: np.ndarray) -> float:
        return clusters(Evidence(source, source, answers(logits, None, features), None))

    assert score(centres) == pytest.approx(1)
    assert score(centres[:, [2, 0, 1]]) == pytest.approx(1)
    assert abs(score(np.random.default_rng(1).permutation(centres))) < 0.2
    assert score(np.ones((30, 3))) == 0.0


def test_source_images_do_not_tell_that_the_target_has_moved() -> None:
    """Six of ten target images are answered wrong; both scores still speak of the source's one in twenty."""
    found = scores(from_muddled_to_clear(0)[0])
    assert found["target_accuracy"] < 0.5
    assert found["source_accuracy"] > 0.9
    assert found["deep_embedded"] > -0.1


@pytest.mark.parametrize("answered", [1, 2])
def test_entropy_and_density_prefer_a_collapsed_classifier_and_information_does_not(answered: int) -> None:
    """One that gives every image one class, and one that runs four classes together to two."""
    centres = means(2.5)
    bias = -(centres**2).sum(1) / 2
    never = np.where(np.arange(CLASSES) < answered, 0.0, -50.0)
    knowing, collapsed = (
        scores(state(centres, centres.T, each, centres, 0)) for each in (bias, bias + never)
    )
    assert collapsed["target_accuracy"] < 0.6 < 0.85 < knowing["target_accuracy"]
    for fooled in ("entropy", "density"):
        assert collapsed[fooled] > knowing[fooled]
    for sees in ("source_accuracy", "information", "deep_embedded", "clusters"):
        assert collapsed[sees] < knowing[sees]
