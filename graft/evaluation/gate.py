"""Which candidate wins, and whether it may replace the champion: pure functions of measured numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from graft.evaluation.candidates import Cost
from graft.evaluation.comparison import Comparison, chance
from graft.evaluation.scores import ClassScore, Scores
from graft.params import Evaluation

EPSILON = 1e-9  # 0.8 - 0.7 is a little more than 0.1
LEVEL = 0.025  # of the one-sided test, as the lower end of a 95 % interval has


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
    """What the gate knows of a model.

    Attributes:
        scores: On the images that decide.
        cost: Of one answer.
        domains: On the held-out images of each domain, by its name; may be empty.
    """

    scores: Scores
    cost: Cost
    domains: Mapping[str, Scores] = field(default_factory=dict)


@dataclass(frozen=True)
class Incumbent:
    """What the gate knows of the champion: its scores, or only why it has none.

    Attributes:
        version: As the registry numbers it.
        scores: On the same images as the challenger's, or None.
        problem: Why there are no scores.
        identical: The challenger is this model.
        domains: As the challenger's, on the same images.
    """

    version: str
    scores: Scores | None = None
    problem: str | None = None
    identical: bool = False
    domains: Mapping[str, Scores] = field(default_factory=dict)


def choose(candidates: Mapping[str, Scores]) -> str:
    """The winner: highest accuracy, then lowest Brier score, then first in order."""
    return max(candidates, key=lambda name: (candidates[name].accuracy, -candidates[name].brier))


def decide(
    challenger: Measured,
    champion: Incumbent | None,
    comparison: Comparison | None,
    params: Evaluation,
    *,
    chosen_from: int = 1,
) -> list[Rule]:
    """Every rule, passed or not; the challenger is promoted if all pass.

    Two rules ask whether the gain is more than luck. The paired bootstrap's lower end is what people
    read; McNemar's exact test holds where few images differ and the bootstrap is too hopeful (see
    `comparison.chance`). Together they promote an equal challenger in less than 2.5 % of cases.

    Args:
        challenger: The winning candidate.
        champion: None where none is registered. Without scores, absolute limits apply.
        comparison: Challenger against champion; needed where the champion has scores.
        params: The limits.
        chosen_from: Among how many candidates these same images chose the challenger; 1 where other
            images did. The best of K has K chances to be lucky, so each gets a K-th of the level
            (Bonferroni).
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
            _chance(comparison, params, chosen_from),
            _class_drop(challenger.scores.per_class, champion.scores.per_class, params),
            *_domain_drop(challenger.domains, champion.domains, params),
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


def _chance(comparison: Comparison, params: Evaluation, chosen_from: int) -> Rule:
    gained, lost, limit = comparison.only_challenger, comparison.only_other, LEVEL / chosen_from
    value = chance(gained, lost, comparison.images, tolerance=params.tolerance)
    worse = f"{_points(params.tolerance, sign='')} worse than" if params.tolerance else "only as good as"
    test = "Tango's score test" if params.tolerance else "McNemar's exact test"
    text = (
        f"a challenger {worse} the champion does so well with probability {value:.2g} ({test}); "
        f"at most {limit:.2g} is allowed"
    )
    if chosen_from > 1:
        text += (
            f", which is {LEVEL:.2g} shared by the {chosen_from} candidates that the same images chose from"
        )
    return Rule("beyond_chance", value <= limit, value, limit, text)


def _domain_drop(
    challenger: Mapping[str, Scores], champion: Mapping[str, Scores], params: Evaluation
) -> list[Rule]:
    """One rule where there are several domains, none where there is one: the gain says it already."""
    shared = [name for name in challenger if name in champion]
    if len(shared) < 2:
        return []
    limit = params.max_class_drop
    worst = max(shared, key=lambda name: champion[name].accuracy - challenger[name].accuracy)
    now, before = challenger[worst], champion[worst]
    drop = before.accuracy - now.accuracy
    if drop <= 0:
        return [
            Rule("domain_drop", True, drop, limit, "no domain is recognised less often than by the champion")
        ]
    text = (
        f"domain {worst!r} falls most: accuracy {_percent(before.accuracy)} to {_percent(now.accuracy)} of "
        f"{now.images} held-out images; at most {_points(limit, sign='')} is allowed"
    )
    return [Rule("domain_drop", drop <= limit + EPSILON, drop, limit, text)]


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
