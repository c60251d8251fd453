"""Step: candidates and champion on the same held-out images, and the decision."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graft.backbones.classifier import load_classifier
from graft.errors import GraftError
from graft.evaluation.candidates import Champion
from graft.evaluation.evaluate import evaluate
from graft.params import Evaluation, Registry, parse
from graft.registry.champion import champion as registered_champion


def run(
    *,
    evaluation: Mapping[str, Any],
    registry: Mapping[str, Any],
    images: Path,
    probe: Path,
    fine_tuned: Path,
    adapted: Path,
    scratch: Path,
    scores: Path,
    predictions: Path,
    winner: Path,
    decision: Path,
    report: Path,
) -> None:
    """See components/evaluation.py."""
    evaluate(
        images,
        {"probe": probe, "fine_tuned": fine_tuned, "adapted": adapted, "scratch": scratch},
        _champion(parse(Registry, registry, "params: registry")),
        parse(Evaluation, evaluation, "params: evaluation"),
        scores=scores,
        predictions=predictions,
        decision=decision,
        winner=winner,
        report=report,
    )


def _champion(params: Registry) -> Champion | None:
    current = registered_champion(params)
    if current is None:
        return None
    model, problem = None, current.problem
    if current.folder:
        try:
            model = load_classifier(current.folder)
        except GraftError as error:  # a challenger is then judged by absolute limits
            problem = error.problem
    return Champion(current.version, model, problem, current.weights_sha256, current.data_md5)
