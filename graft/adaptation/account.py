"""The account of an adaptation: what was seen, what was chosen and why, and what is not known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graft.adaptation.choosing import ENOUGH, Choice
from graft.adaptation.distance import proxy_a_distance
from graft.adaptation.evidence import Evidence
from graft.adaptation.label_shift import label_shift
from graft.adaptation.states import States
from graft.training.loop import History

DISAGREE = 0.1  # share of target images: above it, validators choose between different models


def account(
    method: str,
    states: States,
    rows: Sequence[dict[str, Any]],
    choice: Choice,
    *,
    before: Evidence,
    after: Evidence,
    history: History,
    classes: Sequence[str],
    labelled: int,
) -> dict[str, Any]:
    """Everything as JSON stores it.

    Keys: method, states (scores of each; number 0 is the start), chosen, by, reason, each (the state
    that each validator would have chosen), disagreement (by validator: share of target images that its
    choice answers differently), distance (proxy A-distance before and after), label_shift (class
    shares), notes (sentences).

    Args:
        method: `domain_adaptation.method`.
        states: For the answers of each.
        rows: Scores of each state.
        choice: Of `choose`.
        before, after: Evidence of the start and of what was chosen.
        history: May tell of a phase that ended early.
        classes: Names.
        labelled: Labelled validation images of the target.
    """
    chosen = states.answers(choice.state)
    disagreement = {
        name: float((states.answers(number) != chosen).mean()) for name, number in choice.each.items()
    }
    distance = {
        when: proxy_a_distance(evidence.learned.features, evidence.target.features, seed=0)
        for when, evidence in (("before", before), ("after", after))
    }
    return {
        "method": method,
        "states": [{"state": number, **row} for number, row in enumerate(rows)],
        "chosen": choice.state,
        "by": choice.by,
        "reason": choice.reason,
        "each": choice.each,
        "disagreement": disagreement,
        "distance": distance,
        "label_shift": label_shift(after, seed=0).to_dict(),
        "classes": list(classes),
        "notes": _notes(choice, disagreement, distance, history, labelled),
    }


def _notes(
    choice: Choice,
    disagreement: dict[str, float],
    distance: dict[str, float | None],
    history: History,
    labelled: int,
) -> list[str]:
    said = [
        f"Adaptation ended early, in epoch {row['epoch']}: {row['diverged']}. The states before it were kept."
        for row in history
        if "diverged" in row
    ]
    if choice.state == 0:
        said.append(f"The model is as it was before adaptation: {choice.reason}.")
    far = {name: share for name, share in disagreement.items() if share > DISAGREE}
    if far:
        listed = ", ".join(
            f"{name} would keep state {choice.each[name]} ({100 * share:.0f} % of the target images differ)"
            for name, share in far.items()
        )
        said.append(f"Validators disagree with the state that was kept, {choice.state}: {listed}.")
    before, after = distance["before"], distance["after"]
    if choice.state and before is not None and after is not None and after > before:
        said.append(f"The domains lie further apart than before: {after:.2f} against {before:.2f} of 2.")
    if choice.by != "target_accuracy":
        said.append(
            f"No accuracy on the target stands behind this choice: it has {labelled} labelled validation "
            f"images, and {ENOUGH} would decide in place of the validators."
        )
    return said
