"""The gate: who is let through, and what it says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.evaluation.candidates import Cost
from graft.evaluation.comparison import compare
from graft.evaluation.gate import Incumbent, Measured, Rule, choose, decide
from graft.evaluation.scores import Scores, score
from graft.params import Evaluation

CLASSES = ["ant", "bee", "wasp"]
LABELS = np.repeat([0, 1, 2], 100)
LIMITS = Evaluation(max_calibration_error=1.0)


def answers(right: tuple[int, int, int], confidence: float = 0.9) -> np.ndarray:
    """Probabilities (300, 3) with so many images of each class right."""
    predicted = np.concatenate(
        [np.where(np.arange(100) < n, label, (label + 1) % 3) for label, n in enumerate(right)]
    )
    return np.full((300, 3), (1 - confidence) / 2) + np.eye(3)[predicted] * (1.5 * confidence - 0.5)


def scores(right: tuple[int, int, int], confidence: float = 0.9) -> Scores:
    return score(answers(right, confidence), LABELS, CLASSES)


def judge(
    right: tuple[int, int, int],
    champion: tuple[int, int, int],
    params: Evaluation = LIMITS,
    latency_ms: float = 1.0,
) -> dict[str, Rule]:
    """The rules by name, champion readable."""
    ours, theirs = (answers(each).argmax(axis=1) == LABELS for each in (right, champion))
    rules = decide(
        Measured(scores(right), Cost(10, 0.1, latency_ms)),
        Incumbent("3", scores(champion)),
        compare(ours, theirs, resamples=1000, seed=0),
        params,
    )
    return {rule.rule: rule for rule in rules}


def failed(rules: dict[str, Rule]) -> set[str]:
    return {name for name, rule in rules.items() if not rule.passed}


def alone(
    right: tuple[int, int, int], params: Evaluation, champion: Incumbent | None = None, ms: float = 1.0
) -> dict[str, Rule]:
    rules = decide(Measured(scores(right), Cost(10, 0.1, ms)), champion, None, params)
    return {rule.rule: rule for rule in rules}


def test_without_champion_absolute_limits_decide() -> None:
    rules = alone((80, 80, 80), LIMITS)
    assert set(rules) == {"champion_absent", "min_accuracy", "calibration", "latency"}
    assert not failed(rules)
    assert failed(alone((40, 40, 40), LIMITS)) == {"min_accuracy"}
    assert "accuracy 40.0 %; at least 50.0 % is needed" in alone((40, 40, 40), LIMITS)["min_accuracy"].text


def test_an_accuracy_at_the_limit_passes() -> None:
    assert not failed(alone((80, 80, 80), Evaluation(min_accuracy=0.8, max_calibration_error=1.0)))


def test_a_slow_or_badly_calibrated_model_is_refused_with_or_without_champion() -> None:
    strict = Evaluation(max_calibration_error=0.05, max_latency_ms=20)
    assert failed(alone((60, 60, 60), strict, ms=30.0)) == {"calibration", "latency"}
    assert failed(judge((60, 60, 60), (10, 10, 10), strict, latency_ms=30.0)) == {"calibration", "latency"}


def test_a_clearly_better_challenger_is_promoted() -> None:
    rules = judge((95, 95, 95), (70, 70, 70))
    assert not failed(rules)
    assert rules["gain"].value == pytest.approx(0.25)
    assert "75 images only the winner gets right, 0 only the champion" in rules["gain"].text


def test_a_clearly_worse_challenger_is_refused() -> None:
    assert failed(judge((60, 60, 60), (90, 90, 90))) == {
        "gain",
        "gain_beyond_noise",
        "beyond_chance",
        "class_drop",
    }


def test_better_within_noise_is_refused_unless_tolerated() -> None:
    noise = {"right": (82, 78, 81), "champion": (79, 80, 80)}
    rules = judge(noise["right"], noise["champion"])
    assert failed(rules) == {"gain_beyond_noise", "beyond_chance"}
    assert "McNemar p" in rules["gain_beyond_noise"].text
    tolerant = Evaluation(tolerance=0.05, max_calibration_error=1.0)
    assert not failed(judge(noise["right"], noise["champion"], tolerant))


def test_a_gain_smaller_than_asked_is_refused() -> None:
    asking = Evaluation(min_gain=0.3, max_calibration_error=1.0)
    assert failed(judge((95, 95, 95), (70, 70, 70), asking)) == {"gain"}


def test_four_won_and_none_lost_can_be_luck_though_the_bootstrap_is_sure() -> None:
    rules = judge((100, 100, 84), (100, 100, 80))
    assert rules["gain_beyond_noise"].passed
    assert failed(rules) == {"beyond_chance"}
    assert rules["beyond_chance"].value == pytest.approx(1 / 16)
    assert "McNemar's exact test" in rules["beyond_chance"].text
    assert not failed(judge((100, 100, 86), (100, 100, 80)))  # 1 in 64


def test_the_best_of_several_on_the_same_images_has_to_show_more() -> None:
    def refusing(chosen_from: int) -> set[str]:
        ours, theirs = (answers(each).argmax(1) == LABELS for each in ((100, 100, 86), (100, 100, 80)))
        rules = decide(
            Measured(scores((100, 100, 86)), Cost(10, 0.1, 1.0)),
            Incumbent("3", scores((100, 100, 80))),
            compare(ours, theirs, resamples=1000, seed=0),
            LIMITS,
            chosen_from=chosen_from,
        )
        return failed({rule.rule: rule for rule in rules})

    assert refusing(1) == set()
    assert refusing(4) == {"beyond_chance"}


@pytest.mark.parametrize(
    ("source", "refused"), [((70, 70, 70), set()), ((60, 60, 60), set()), ((59, 60, 60), {"domain_drop"})]
)
def test_no_domain_may_fall_further_than_the_limit(source: tuple[int, int, int], refused: set[str]) -> None:
    before, after = (70, 70, 70), (95, 95, 95)
    ours, theirs = (answers(each).argmax(axis=1) == LABELS for each in (after, before))
    rules = decide(
        Measured(scores(after), Cost(1, 1, 1), {"target": scores(after), "source": scores(source)}),
        Incumbent("3", scores(before), domains={"target": scores(before), "source": scores((70, 70, 70))}),
        compare(ours, theirs, resamples=500, seed=0),
        LIMITS,
    )
    assert failed({rule.rule: rule for rule in rules}) == refused


def test_one_domain_has_no_rule_about_domains() -> None:
    assert "domain_drop" not in judge((95, 95, 95), (70, 70, 70))


def test_better_overall_but_one_class_collapses() -> None:
    rules = judge((100, 100, 60), (70, 70, 80))
    assert failed(rules) == {"class_drop"}
    assert rules["class_drop"].value == pytest.approx(0.2)
    assert "class 'wasp' falls most: recall 80.0 % to 60.0 % of 100 images" in rules["class_drop"].text


def test_a_class_may_fall_by_exactly_the_limit() -> None:
    assert not failed(judge((100, 100, 70), (70, 70, 80)))  # 0.8 - 0.7 > 0.1 in floating point


def test_a_drop_in_a_tiny_class_says_that_it_is_tiny() -> None:
    labels = np.array([0] * 200 + [1] * 5)
    before, after = np.eye(2)[labels], np.eye(2)[labels]
    before[:100], after[-1] = [0, 1], [1, 0]
    names = ["common", "rare"]
    rules = decide(
        Measured(score(after, labels, names), Cost(1, 1, 1)),
        Incumbent("1", score(before, labels, names)),
        compare(after.argmax(1) == labels, before.argmax(1) == labels, resamples=500, seed=0),
        LIMITS,
    )
    said = next(rule for rule in rules if rule.rule == "class_drop")
    assert not said.passed
    assert "one image is 20.0 points: too few images to tell" in said.text


def test_an_unreadable_champion_is_said_and_absolute_limits_decide() -> None:
    rules = alone((80, 80, 80), LIMITS, Incumbent("7", problem="its weights are gone"))
    assert not failed(rules)
    assert "version 7 cannot be used (its weights are gone)" in rules["champion_unreadable"].text
    assert "min_accuracy" in rules


def test_the_champion_itself_is_not_promoted_again() -> None:
    rules = alone((80, 80, 80), LIMITS, Incumbent("7", identical=True))
    assert failed(rules) == {"new_model"}
    assert "already champion" in rules["new_model"].text


def test_the_winner_has_the_best_accuracy_then_the_best_probabilities() -> None:
    candidates = {"a": scores((70, 70, 70)), "b": scores((80, 80, 80), 0.6), "c": scores((80, 80, 80), 0.8)}
    assert choose(candidates) == "c"
    assert choose({"first": candidates["a"], "second": candidates["a"]}) == "first"


def test_a_tolerance_that_is_nearly_nothing_is_nothing() -> None:
    tiny = Evaluation(tolerance=1e-290, max_calibration_error=1.0)
    same = {
        name: judge((80, 80, 80), (80, 80, 80), params) for name, params in (("0", LIMITS), ("tiny", tiny))
    }
    assert failed(same["tiny"]) == failed(same["0"])
    assert "beyond_chance" in failed(same["tiny"])


counts = st.tuples(*[st.integers(0, 100)] * 3)


@given(counts, counts)
@settings(deadline=None, max_examples=60)
def test_two_models_never_promote_each_other(one: tuple[int, int, int], other: tuple[int, int, int]) -> None:
    assert failed(judge(one, other)) or failed(judge(other, one))


@given(counts, counts, st.floats(0, 1), st.floats(0, 1))
@settings(deadline=None, max_examples=60)
def test_looser_limits_never_refuse_what_stricter_ones_promote(
    one: tuple[int, int, int], other: tuple[int, int, int], strict: float, loose: float
) -> None:
    strict, loose = sorted((strict, loose))
    tight = Evaluation(tolerance=strict, max_class_drop=strict, max_calibration_error=strict)
    wide = Evaluation(tolerance=loose, max_class_drop=loose, max_calibration_error=loose)
    assert failed(judge(one, other, wide)) <= failed(judge(one, other, tight))


@given(counts, counts)
@settings(deadline=None, max_examples=40)
def test_every_rule_has_words_and_a_verdict(one: tuple[int, int, int], other: tuple[int, int, int]) -> None:
    for rule in judge(one, other).values():
        assert rule.text
        assert isinstance(rule.passed, bool)
        assert (rule.value is None) == (rule.limit is None)
