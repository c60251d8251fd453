"""Gradual unfreezing: the head first, then one stage more at a time (Howard & Ruder 2018)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graft.backbones.classifier import Classifier
from graft.images.augmentation import Policy
from graft.images.table import ImageTable
from graft.methods.interpolation import interpolate
from graft.methods.lesson import Lesson, prepare
from graft.methods.stage_decisions import NEW_RATE, arrange, everywhere, last_stages, stage_rates
from graft.params import FineTuning
from graft.training import distributed
from graft.training.checkpoints import weights_of
from graft.training.freezing import unfreeze
from graft.training.loop import History, fit


def gradual(
    table: ImageTable, model: Classifier, policy: Policy, params: FineTuning, *, work: Path
) -> tuple[Classifier, History]:
    """Train the head, then the last stage with it, then the last two, and so on, in place.

    Each phase goes on until validation stops improving. The first further stage that brings no better
    validation score than the phases before ends the training, and its changes are taken back. Without
    validation images, all stages have their turn, in groups where they are more than `epochs`, which the
    turns share evenly.

    Args:
        table: Where the images are; validation chooses.
        model: A pretrained trunk with the head that a probe found.
        policy: The augmentation of training images.
        params: The section; `head_epochs` and `epochs` are the most of the head's and of each phase.
        work: Folder for checkpoints.

    Returns:
        The model and one row an epoch; phases are named `head`, then `stage-K` with K stages unfrozen.
    """
    lesson = prepare(table, model, policy, params)
    best, score = weights_of(model), _score(_validated(lesson))
    probe = best
    history: History = []
    for count in _counts(len(model.trunk.stages), lesson):
        rows = _phase(model, lesson, count, work)
        history += rows
        reached = max((_score(row) for row in rows), default=score)
        if lesson.validate is None or reached > score:
            best, score = weights_of(model), reached
        else:
            model.load_state_dict(best)
            if count:
                break
    unfreeze(model.trunk)
    interpolate(model, probe, params.interpolation)
    return model, history


def _counts(stages: int, lesson: Lesson) -> list[int]:
    """How many stages learn in each phase: none in the head's, all in the last possible one."""
    turns = stages if lesson.validate else min(stages, lesson.plan.epochs)
    return [round(stages * turn / turns) for turn in range(turns + 1)]


def _phase(model: Classifier, lesson: Lesson, count: int, work: Path) -> History:
    """Train the head and the last `count` stages."""
    decisions = last_stages(model, count) if count else everywhere(model, "freeze")
    arrange(model, decisions, stored=lesson.plan.stored)
    epochs = lesson.plan.head_epochs
    if count:
        turns = len(_counts(len(decisions), lesson)) - 1 if lesson.validate is None else 1
        epochs = max(1, lesson.plan.epochs // turns)
    rates = stage_rates(
        model, decisions, head=1.0 if count else NEW_RATE, layer_decay=lesson.params.layer_decay
    )
    phase = lesson.phase(f"stage-{count}" if count else "head", epochs, rates=rates, seed=count)
    return fit(model, lesson.loss, phase, work=work, validate=lesson.validate) if epochs else []


def _validated(lesson: Lesson) -> Mapping[str, Any]:
    """The probe's own score, the same in all processes."""
    return distributed.average(lesson.validate()) if lesson.validate else {}


def _score(row: Mapping[str, Any]) -> tuple[float, float]:
    """As the training loop compares epochs: accuracy, then low loss."""
    return row.get("val_accuracy", -math.inf), -row.get("val_loss", math.inf)
