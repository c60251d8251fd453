"""Which candidate wins, and whether it may replace the champion: pure functions of measured numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from graft.evaluation.candidates import Cost
from graft.evaluation.comparison import Comparison
from graft.evaluation.scores import ClassScore, Scores
from graft.params import Evaluation

EPSILON = 1e-9  # 0.8 - 0.7 is a little more than 0.1


@dataclass(frozen=True)
class Rule:
    """One reason of a decision: what was measured, against which limit, and in words.

    Attributes:
        rule: A fixed name, such as "class_drop".
        passed: Whether it lets the challenger through.
        value, limit: The measured number and its bound; None for a rule without numbers.
        text: A sentence for people.
    """

    rule: str
    passed: bool
    value: float | None
    limit: float | None
    text: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON stores it."""
        return asdict(self)


@dataclass(frozen=True)
class Measured:
    """What the gate knows of a model."""

    scores: Scores
    cost: Cost


@dataclass(frozen=True)
class Incumbent:
    """What the gate knows of the champion: its scores, or only why it has none.

    Attributes:
        version: As the registry numbers it.
        scores: On the same images as the challenger's, or None.
        problem: Why there are no scores.
        identical: The challenger is this model.
    """

    version: str
    scores: Scores | None = None
    problem: str | None = None
    identical: bool = False


def choose(candidates: Mapping[str, Scores]) -> str:
    """The winner: highest accuracy, then lowest Brier score, then first in order."""
    return max(candidates, key=lambda name: (candidates[name].accuracy, -candidates[name].brier))


def decide(
    challenger: Measured,
    champion: Incumbent | None,
    comparison: Comparison | None,
    params: Evaluation,
) -> list[Rule]:
    """Every rule, passed or not; the challenger is promoted if all pass.

    Args:
        challenger: The winning candidate.
        champion: None where none is registered. Without scores, absolute limits apply.
        comparison: Challenger against champion; needed where the champion has scores.
        params: The limits.
    """
    if champion is not None and champion.identical:
        text = f"already champion: the winner has the weights of version {champion.version}"
        return [Rule("new_model", False, None, None, text)]
    if champion is None or champion.scores is None or comparison is None:
        against = [_absolute(champion), _minimum(challenger.scores, params)]
    else:
        against = [
            Rule("new_model", True, None, None, f"differs from the champion, version {champion.version}"),
            _gain(comparison, params),
            _lower_bound(comparison, params),
            _class_drop(challenger.scores.per_class, champion.scores.per_class, params),
        ]
    return [*against, _calibration(challenger.scores, params), _latency(challenger.cost, params)]


def largest_drop(
    challenger: Iterable[ClassScore], champion: Iterable[ClassScore]
) -> tuple[ClassScore, ClassScore] | None:
    """The class whose recall falls most, as (challenger's row, champion's row), or None.

    Only classes with images are looked at. A class that the champion does not know has recall 0 there
    and so cannot fall.
    """
    before = {row.name: row for row in champion}
    pairs = [(row, before[row.name]) for row in challenger if row.support and row.name in before]
    return max(pairs, key=lambda pair: pair[1].recall - pair[0].recall, default=None)


def _absolute(champion: Incumbent | None) -> Rule:
    if champion is None:
        return Rule("champion_absent", True, None, None, "there is no champion yet: absolute limits decide")
    why = f"champion version {champion.version} cannot be used ({champion.problem or 'no reason given'})"
    return Rule("champion_unreadable", True, None, None, f"{why}: absolute limits decide")


def _minimum(scores: Scores, params: Evaluation) -> Rule:
    passed = scores.accuracy >= params.min_accuracy - EPSILON
    text = f"accuracy {_percent(scores.accuracy)}; at least {_percent(params.min_accuracy)} is needed"
    return Rule("min_accuracy", passed, scores.accuracy, params.min_accuracy, text)


def _gain(comparison: Comparison, params: Evaluation) -> Rule:
    gained, lost = comparison.only_challenger, comparison.only_other
    text = (
        f"{_points(comparison.difference)} against the champion ({gained} images only the winner gets right, "
        f"{lost} only the champion); more than {_points(params.min_gain)} is needed"
    )
    passed = comparison.difference > params.min_gain + EPSILON
    return Rule("gain", passed, comparison.difference, params.min_gain, text)


def _lower_bound(comparison: Comparison, params: Evaluation) -> Rule:
    low, high = comparison.interval
    limit = 0.0 - params.tolerance  # and not -0.0
    text = (
        f"the difference is between {_points(low)} and {_points(high)} (95 %; McNemar p = "
        f"{comparison.p_value:.2g}); its lower end must be above {_points(limit)}"
    )
    return Rule("gain_beyond_noise", low > limit + EPSILON, low, limit, text)


def _class_drop(challenger: Iterable[ClassScore], champion: Iterable[ClassScore], params: Evaluation) -> Rule:
    limit = params.max_class_drop
    worst = largest_drop(challenger, champion)
    if worst is None:
        return Rule("class_drop", True, 0.0, limit, "no class can be compared")
    now, before = worst
    drop = before.recall - now.recall
    if drop <= 0:
        return Rule("class_drop", True, drop, limit, "no class is recognised less often than by the champion")
    text = (
        f"class {now.name!r} falls most: recall {_percent(before.recall)} to {_percent(now.recall)} of "
        f"{now.support} images; at most {_points(limit, sign='')} is allowed"
    )
    if 1 / now.support > limit:
        text += f" (one image is {_points(1 / now.support, sign='')}: too few images to tell)"
    return Rule("class_drop", drop <= limit + EPSILON, drop, limit, text)


def _calibration(scores: Scores, params: Evaluation) -> Rule:
    value, limit = scores.calibration_error, params.max_calibration_error
    text = f"calibration error {value:.3f}; at most {limit:.3f} is allowed"
    return Rule("calibration", value <= limit, value, limit, text)


def _latency(cost: Cost, params: Evaluation) -> Rule:
    value, limit = cost.latency_ms, params.max_latency_ms
    text = f"one image takes {value:.1f} ms; at most {limit:.0f} ms is allowed"
    return Rule("latency", value <= limit, value, limit, text)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _points(share: float, sign: str = "+") -> str:
    return f"{100 * share:{sign if share else ''}.1f} points"
