"""Fine-tuning a pretrained backbone: one mechanism, and presets of which stages learn in which phase."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from graft.backbones.classifier import Classifier
from graft.errors import GraftError
from graft.images.augmentation import Policy
from graft.images.table import ImageTable
from graft.methods.interpolation import interpolate
from graft.methods.lesson import prepare
from graft.methods.stage_decisions import (
    NEW_RATE,
    Decisions,
    arrange,
    everywhere,
    last_stages,
    listed,
    new_parameters,
    reinitialise,
    stage_rates,
)
from graft.params import FineTuning
from graft.training.checkpoints import weights_of
from graft.training.freezing import unfreeze
from graft.training.loop import History, fit
from graft.training.statistics import unbiased_statistics


@dataclass(frozen=True)
class _Step:
    """One phase of a preset: what each stage does, how fast the head learns, how long it lasts."""

    name: str
    decide: Callable[[Classifier, FineTuning], Decisions]
    head_rate: float = 1.0
    epochs: Literal["epochs", "head_epochs"] = "epochs"


def _frozen(model: Classifier, _params: FineTuning) -> Decisions:
    return everywhere(model, "freeze")


def _tuned(model: Classifier, _params: FineTuning) -> Decisions:
    return everywhere(model, "tune")


def _last(model: Classifier, params: FineTuning) -> Decisions:
    return last_stages(model, params.last)


def _listed(model: Classifier, params: FineTuning) -> Decisions:
    return listed(model, params.stages)


def _normalisation(model: Classifier, _params: FineTuning) -> Decisions:
    return everywhere(model, "normalisation")


PRESETS: dict[str, tuple[_Step, ...]] = {
    "head_only": (_Step("head", _frozen, NEW_RATE),),
    "last_k": (_Step("last", _last),),
    "all": (_Step("all", _tuned),),
    # LP-FT (Kumar et al. 2022): with a good head, the first steps do not tear up good features.
    "head_then_all": (_Step("head", _frozen, NEW_RATE, "head_epochs"), _Step("all", _tuned)),
    "staged": (_Step("staged", _listed),),
    # Scales and shifts alone (Frankle et al. 2021).
    "normalisation": (_Step("normalisation", _normalisation),),
}


def fine_tune(
    table: ImageTable, model: Classifier, policy: Policy, params: FineTuning, *, work: Path
) -> tuple[Classifier, History]:
    """Train `model` on every domain's labelled training images, in place.

    Args:
        table: Where the images are; validation chooses the epoch.
        model: A pretrained trunk with the head that a probe found.
        policy: The augmentation of training images.
        params: `method` picks the preset.
        work: Folder for checkpoints.

    Returns:
        The model and one row an epoch; each phase is named after its preset's step.

    Raises:
        GraftError: the stages that the params name are not the network's, the preset has nothing to
            train in it, or weights that start anew are to be interpolated.
    """
    steps = PRESETS[params.method]
    decisions = [step.decide(model, params) for step in steps]  # errors before images are read
    new = new_parameters(model, decisions[-1])
    _refuse_between(new, params)
    lesson = prepare(table, model, policy, params, new=new)
    probe = weights_of(model)
    history: History = []
    for number, (step, decided) in enumerate(zip(steps, decisions, strict=True)):
        if epochs := getattr(lesson.plan, step.epochs):
            reinitialise(model, decided, params.seed)
            arrange(model, decided, stored=lesson.plan.stored)
            # The probe's head does not fit features that start anew.
            head = NEW_RATE if new else step.head_rate
            rates = stage_rates(model, decided, head=head, layer_decay=params.layer_decay)
            phase = lesson.phase(step.name, epochs, rates=rates, seed=number)
            fresh = [stage for name, stage in model.trunk.stages if decided[name] == "reinitialise"]
            with unbiased_statistics(fresh):
                history += fit(model, lesson.loss, phase, work=work, validate=lesson.validate)
    unfreeze(model.trunk)
    interpolate(model, probe, params.interpolation)
    return model, history


def _refuse_between(new: Collection[str], params: FineTuning) -> None:
    if new and params.interpolation < 1:
        raise GraftError(
            f"fine_tuning.interpolation = {params.interpolation}, but fine_tuning.stages starts stages anew: "
            "nothing useful lies between pretrained and new weights",
            "set interpolation to 1, or tune those stages",
        )
