"""Everything an evaluation finds out, before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from graft.errors import GraftError
from graft.evaluation.candidates import BASELINE, CHAMPION, Candidate, Champion, Cost, costs, read_candidates
from graft.evaluation.comparison import Comparison, compare, selection_optimism
from graft.evaluation.gate import Incumbent, Measured, Rule, choose, decide
from graft.evaluation.notes import notes
from graft.evaluation.predictions import Predictions, predict
from graft.evaluation.scores import Scores, score
from graft.images.table import ImageTable
from graft.params import Evaluation
from graft.training.device import best_device

ENOUGH_TO_CHOOSE = 100  # labelled validation images of the target: below, test images choose


@dataclass(frozen=True)
class Selection:
    """How the winner was chosen.

    Attributes:
        winner: Its name.
        split, images: The target's split whose accuracy decided, and its number of images.
        optimism: By how much choosing flatters the winner's test accuracy (0 when validation chose).
        reason: The same in words.
    """

    winner: str
    split: str
    images: int
    optimism: float
    reason: str


@dataclass(frozen=True)
class Findings:
    """The result of an evaluation; models are named by step, the champion is "champion".

    Attributes:
        predictions: Of every model on every labelled held-out image.
        scores: By model, on the target's test images.
        parts: By model, then (domain, split): on every held-out part.
        costs: By model.
        comparisons: The winner against every other model, by the other's name.
        transfer: Every candidate against the baseline, by candidate.
        skipped: Candidates left out, with the reason.
        champion: Without its model where it cannot be used; None where there is none.
        rules: The gate's reasons.
        notes: What a reader must know besides, as sentences.
    """

    table: ImageTable
    params: Evaluation
    candidates: Mapping[str, Candidate]
    skipped: Mapping[str, str]
    champion: Champion | None
    predictions: Predictions
    scores: Mapping[str, Scores]
    parts: Mapping[str, Mapping[tuple[str, str], Scores]]
    costs: Mapping[str, Cost]
    selection: Selection
    comparisons: Mapping[str, Comparison]
    transfer: Mapping[str, Comparison]
    rules: list[Rule]
    notes: list[str]

    @property
    def winner(self) -> str:
        """The winning candidate's name."""
        return self.selection.winner

    @property
    def promote(self) -> bool:
        """Whether the winner becomes champion."""
        return all(rule.passed for rule in self.rules)

    @property
    def judged(self) -> Predictions:
        """The target's test images: those that decide."""
        return self.predictions.part(self.table.target, "test")


def examine(
    table: ImageTable, folders: Mapping[str, Path], champion: Champion | None, params: Evaluation
) -> Findings:
    """Measure every candidate and the champion, choose the winner, compare, and ask the gate.

    Raises:
        GraftError: no candidate, or no labelled test image.
    """
    loaded, skipped = read_candidates(folders)
    predictions, failures = _predict(table, loaded, champion, params)
    candidates = {candidate.name: candidate for candidate in loaded if candidate.name not in failures}
    skipped |= {name: reason for name, reason in failures.items() if name != CHAMPION}
    if CHAMPION in failures and champion is not None:
        champion = replace(champion, model=None, problem=failures[CHAMPION])
    if not candidates:
        raise GraftError(f"every candidate diverged: {', '.join(failures)}", "lower the learning rates")
    return _conclude(table, candidates, skipped, champion, predictions, params)


def select(names: list[str], predictions: Predictions, table: ImageTable, params: Evaluation) -> Selection:
    """Choose the winner on the target's validation images if there are enough, else on its test images.

    Validation is cleaner: the best of several on the images that also judge it looks a little better
    than it is. But few images choose badly, and a labelled target is small by nature.
    """
    val, test = (predictions.part(table.target, split) for split in ("val", "test"))
    enough = len(val.rows) >= ENOUGH_TO_CHOOSE
    part = val if enough else test
    scores = {name: score(part.probabilities[name], part.labels, part.classes) for name in names}
    winner, of_target = choose(scores), " of the target" if table.target else ""
    if enough:
        text = (
            f"chosen by accuracy on {len(val.rows)} validation images{of_target}; test images only judged it"
        )
        return Selection(winner, "val", len(val.rows), 0.0, text)
    right = np.stack([test.right(name) for name in names])
    optimism = selection_optimism(right, resamples=params.bootstrap, seed=params.seed)
    text = (
        f"chosen by accuracy on the {len(test.rows)} test images themselves, since there are only "
        f"{len(val.rows)} labelled validation images{of_target} and {ENOUGH_TO_CHOOSE} are needed; picking "
        f"the best of {len(names)} so flatters its accuracy by about {100 * optimism:.1f} points"
    )
    return Selection(winner, "test", len(test.rows), optimism, text)


def _conclude(
    table: ImageTable,
    candidates: Mapping[str, Candidate],
    skipped: Mapping[str, str],
    champion: Champion | None,
    predictions: Predictions,
    params: Evaluation,
) -> Findings:
    judged = predictions.part(table.target, "test")
    scores = {name: score(p, judged.labels, judged.classes) for name, p in judged.probabilities.items()}
    selection = select(list(candidates), predictions, table, params)
    cost = _costs(table, candidates, champion, judged)
    comparisons = _against(judged, selection.winner, params)
    parts = _parts(table, predictions)
    rules = decide(
        Measured(scores[selection.winner], cost[selection.winner], _by_domain(parts[selection.winner])),
        _incumbent(champion, scores, candidates[selection.winner], parts),
        comparisons.get(CHAMPION),
        params,
        chosen_from=len(candidates) if selection.split == "test" else 1,
    )
    transfer = _transfer(judged, list(candidates), params)
    return Findings(
        table=table,
        params=params,
        candidates=candidates,
        skipped=skipped,
        champion=champion,
        predictions=predictions,
        scores=scores,
        parts=parts,
        costs=cost,
        selection=selection,
        comparisons=comparisons,
        transfer=transfer,
        rules=rules,
        notes=notes(table, candidates, champion, judged, selection.winner, transfer, params),
    )


def _predict(
    table: ImageTable, candidates: list[Candidate], champion: Champion | None, params: Evaluation
) -> tuple[Predictions, dict[str, str]]:
    """Predictions of the models that give numbers, and why the others do not."""
    models = {candidate.name: candidate.model for candidate in candidates}
    if champion is not None and champion.model is not None:
        models[CHAMPION] = champion.model
    for model in models.values():
        model.to(best_device())
    found = predict(models, table, batch_size=params.batch_size)
    failures = {
        name: "its probabilities are not finite numbers: its training diverged"
        for name, values in found.probabilities.items()
        if not np.isfinite(values).all()
    }
    kept = {name: values for name, values in found.probabilities.items() if name not in failures}
    return replace(found, probabilities=kept), failures


def _costs(
    table: ImageTable, candidates: Mapping[str, Candidate], champion: Champion | None, judged: Predictions
) -> dict[str, Cost]:
    image = table.contents(judged.rows.index[:1])[0]
    models = {name: candidate.model for name, candidate in candidates.items()}
    if champion is not None and champion.model is not None:
        models[CHAMPION] = champion.model
    return costs(models, image, {name: candidate.seconds for name, candidate in candidates.items()})


def _parts(table: ImageTable, predictions: Predictions) -> dict[str, dict[tuple[str, str], Scores]]:
    order = sorted(table.domains, key=lambda domain: domain != table.target)
    keys = [(domain, split) for domain in order for split in ("test", "val")]
    parts = {key: part for key in keys if len((part := predictions.part(*key)).rows)}
    return {
        name: {key: score(p.probabilities[name], p.labels, p.classes) for key, p in parts.items()}
        for name in predictions.probabilities
    }


def _by_domain(parts: Mapping[tuple[str, str], Scores]) -> dict[str, Scores]:
    """The test images of each domain, or its validation images where it has no test images."""
    return {domain: parts.get((domain, "test"), scores) for (domain, _), scores in parts.items()}


def _against(judged: Predictions, winner: str, params: Evaluation) -> dict[str, Comparison]:
    others = [name for name in judged.probabilities if name != winner]
    return {other: _compare(judged, winner, other, params) for other in others}


def _transfer(judged: Predictions, names: list[str], params: Evaluation) -> dict[str, Comparison]:
    if BASELINE not in names:
        return {}
    return {name: _compare(judged, name, BASELINE, params) for name in names if name != BASELINE}


def _compare(judged: Predictions, name: str, other: str, params: Evaluation) -> Comparison:
    return compare(judged.right(name), judged.right(other), resamples=params.bootstrap, seed=params.seed)


def _incumbent(
    champion: Champion | None,
    scores: Mapping[str, Scores],
    winner: Candidate,
    parts: Mapping[str, Mapping[tuple[str, str], Scores]],
) -> Incumbent | None:
    if champion is None:
        return None
    sha256 = winner.record.get("weights_sha256")
    same_classes = champion.model is None or champion.model.classes == winner.model.classes
    return Incumbent(
        version=champion.version,
        scores=scores.get(CHAMPION),
        problem=champion.problem,
        identical=sha256 is not None and sha256 == champion.weights_sha256 and same_classes,
        domains=_by_domain(parts.get(CHAMPION, {})),
    )
