"""What a reader of a decision must know besides its numbers, in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from graft.evaluation.candidates import BASELINE, CHAMPION, Candidate, Champion
from graft.evaluation.comparison import Comparison, compare
from graft.evaluation.predictions import Predictions
from graft.images.table import ImageTable
from graft.params import Evaluation


def notes(
    table: ImageTable,
    candidates: Mapping[str, Candidate],
    champion: Champion | None,
    judged: Predictions,
    winner: str,
    transfer: Mapping[str, Comparison],
    params: Evaluation,
) -> list[str]:
    """All sentences: negative transfer, classes that differ, and data that changed."""
    classes = table.classes
    said = negative_transfer(winner, transfer)
    for name, candidate in candidates.items():
        said += differing_classes(name, candidate.model.classes, classes, judged)
    if champion is not None and champion.model is not None:
        said += differing_classes("The champion", champion.model.classes, classes, judged)
        said += _on_shared_classes(champion.model.classes, classes, judged, winner, params)
    return said + changed_data(champion, table.data_md5, judged)


def changed_data(champion: Champion | None, data_md5: str, judged: Predictions) -> list[str]:
    """That the champion comes from other data than today's, where it does."""
    if champion is None or champion.data_md5 in (None, data_md5):
        return []
    came = f"The champion was registered from other data (md5 {champion.data_md5}) than today's ({data_md5})"
    if champion.model is None:
        return [f"{came}."]
    return [
        f"{came}: it was scored again on today's {len(judged.rows)} test images, and its stored scores were "
        "not used. Any of these images that it learned from flatter it."
    ]


def negative_transfer(winner: str, transfer: Mapping[str, Comparison]) -> list[str]:
    """Where the baseline, trained without transfer, is not beaten.

    Args:
        winner: The best candidate's name.
        transfer: Every other candidate against the baseline.
    """
    worse = {name: one for name, one in transfer.items() if one.difference < 0}
    said = [
        f"{name} is worse than training from scratch by {-100 * one.difference:.1f} points"
        + (" (beyond noise): negative transfer." if one.interval[1] < 0 else " (within noise).")
        for name, one in worse.items()
    ]
    if winner == BASELINE:
        said.insert(
            0,
            "The baseline wins: training from scratch on the target's labelled images is the best model "
            "here, so what was transferred did not help. Look for a backbone nearer to this data.",
        )
    return said


def differing_classes(
    who: str, known: Sequence[str], wanted: Sequence[str], judged: Predictions
) -> list[str]:
    """How a model whose classes are not the data's was judged."""
    said = []
    if missing := [name for name in wanted if name not in known]:
        images = int(np.isin(judged.labels, [judged.classes.index(name) for name in missing]).sum())
        said.append(f"{who} does not know {_listed(missing)}: {images} test images that it must get wrong.")
    if extra := [name for name in known if name not in wanted]:
        said.append(
            f"{who} also knows {_listed(extra)}, absent from the data: such an answer counts as wrong."
        )
    return said


def _on_shared_classes(
    known: Sequence[str], wanted: Sequence[str], judged: Predictions, winner: str, params: Evaluation
) -> list[str]:
    if set(known) == set(wanted):
        return []
    shared = np.isin(judged.labels, [judged.classes.index(name) for name in wanted if name in known])
    if not shared.any():
        return ["The champion and the data share no class."]
    on_shared = compare(
        judged.right(winner)[shared],
        judged.right(CHAMPION)[shared],
        resamples=params.bootstrap,
        seed=params.seed,
    )
    low, high = on_shared.interval
    return [
        f"On the {on_shared.images} test images of classes that both know, the winner is "
        f"{100 * on_shared.difference:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f}) from the champion."
    ]


def _listed(names: Sequence[str]) -> str:
    if len(names) == 1:
        return f"the class {names[0]!r}"
    shown = [repr(name) for name in names[:5]] + ["…"] * (len(names) > 5)
    return f"{len(names)} classes ({', '.join(shown)})"
