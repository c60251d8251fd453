"""Which state to keep, without the target's labels where there are none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# They vote. Entropy and density do not: both are best for a network that gives every image the same class,
# and over ladders of ever better classifiers density rose and fell alike.
VOTERS = ("source_accuracy", "information", "deep_embedded", "clusters")
ENOUGH = 50  # labelled validation images: below, one image is more than two points


@dataclass(frozen=True)
class Choice:
    """The state to keep.

    Attributes:
        state: Its number; 0 keeps the start.
        by: The validator that chose, "vote" or "last".
        reason: For people.
        each: The state that each validator would have chosen.
    """

    state: int
    by: str
    reason: str
    each: dict[str, int]


def choose(states: Sequence[dict[str, Any]], by: str, *, labelled: int) -> Choice:
    """The state that scores best, the start among them.

    A vote takes the state with the best mean rank over `VOTERS`, and of equals the last. It keeps the
    start unless at least half of them see a gain in what it took.

    Args:
        states: Scores of each state; the first is the start. Larger is better.
        by: `domain_adaptation.choice`.
        labelled: Labelled validation images of the target; `ENOUGH` of them decide in place of a vote.
    """
    names = [name for name in (*VOTERS, "entropy", "density", "target_accuracy") if name in states[0]]
    each = {name: _last_best([state[name] for state in states]) for name in names}
    if by == "last":
        return Choice(len(states) - 1, "last", "domain_adaptation.choice is last", each)
    if by == "auto" and "target_accuracy" in each and labelled >= ENOUGH:
        reason = f"best accuracy on the target's {labelled} labelled validation images"
        return Choice(each["target_accuracy"], "target_accuracy", reason, each)
    if by != "auto" and by in each:
        return Choice(each[by], by, f"domain_adaptation.choice is {by}", each)
    return _vote(states, each)


def _vote(states: Sequence[dict[str, Any]], each: dict[str, int]) -> Choice:
    from scipy.stats import rankdata  # takes a second or two

    voters = [name for name in VOTERS if name in each]
    ranks = np.mean([rankdata([state[name] for state in states]) for name in voters], axis=0)
    best = _last_best(ranks.tolist())
    gains = [name for name in voters if states[best][name] > states[0][name]]
    if 2 * len(gains) < len(voters):
        seen = f"only {', '.join(gains)} sees" if gains else "no validator sees"
        return Choice(0, "vote", f"{seen} a gain over the start, which is kept", each)
    reason = f"best mean rank over {', '.join(voters)}; a gain by {', '.join(gains)}"
    return Choice(best, "vote", reason, each)


def _last_best(values: Sequence[float]) -> int:
    return len(values) - 1 - int(np.argmax(np.asarray(values)[::-1]))
