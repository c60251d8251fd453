"""Domain adaptation: one file per method, one choice among the states that each passes through."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from graft.adaptation.account import account
from graft.adaptation.choosing import choose
from graft.adaptation.domains import check_domains, load_domains
from graft.adaptation.evidence import call_witnesses, hear
from graft.adaptation.states import States, Watch
from graft.adaptation.target import tune_on_target
from graft.backbones.classifier import Classifier
from graft.backbones.precision import computing_in, in_words
from graft.errors import GraftError
from graft.images.augmentation import Policy
from graft.images.table import ImageTable
from graft.params import DomainAdaptation
from graft.progress import say
from graft.training.device import best_device
from graft.training.freezing import unfreeze
from graft.training.loop import History, Phase, fit
from graft.training.schedules import annealed
from graft.training.supervised import labelled_index, validation_index, validator

# domain_adaptation.method: the module here with a function of the method's name.
# Those that train a network: (model, domains, params) -> (what learns, its loss).
TRAINED = {
    **{name: name for name in ("dann", "cdan", "dan", "deep_coral", "mcc", "shot", "self_training")},
    "cdan_e": "cdan",
}
# Those that need no training: (table, model, params) -> (classifier, history).
CLOSED = {name: name for name in ("adabn", "subspace", "coral", "pace")}


@dataclass(frozen=True)
class Adapted:
    """What adaptation gives.

    Attributes:
        model: The chosen state, then fine-tuned on the target's labelled images where there are any.
        history: One row an epoch.
        account: How the state was chosen, and what is not known; see `account`.
    """

    model: Classifier
    history: History
    account: dict[str, Any]


def adapt(
    table: ImageTable,
    model: Classifier,
    policy: Policy,
    params: DomainAdaptation,
    *,
    work: Path,
    watch: Watch | None = None,
) -> Adapted:
    """Adapt by the method that `params.method` names, and keep the state that validators choose.

    Args:
        table: Where the images are; the test split is never read.
        model: Trained on the source; it may be changed in place.
        policy: The augmentation of training images.
        params: The section `domain_adaptation`.
        work: Folder for checkpoints; called again with the same one, a killed run goes on.
        watch: Further numbers about each state, entered in the account; they choose nothing.

    Returns:
        The classifier, its history, and the account of the choice.

    Raises:
        GraftError: a domain has no images to train on, the method does not apply to this network, or
            the choice wants labels that are not there.
    """
    check_domains(table)
    with computing_in(params.precision):
        say(f"{params.method}: adapting in {in_words(best_device())}")
        return _adapt(table, model, policy, params, work, watch)


def _adapt(
    table: ImageTable,
    model: Classifier,
    policy: Policy,
    params: DomainAdaptation,
    work: Path,
    watch: Watch | None,
) -> Adapted:
    labelled = len(labelled_index(table, "val", "target"))
    if params.choice == "target_accuracy" and not labelled:
        raise GraftError(
            "domain_adaptation.choice is target_accuracy, but no validation image of the target has a label",
            "add some to data/target/val/<class>, or set the choice to auto",
        )
    witnesses = call_witnesses(table, model, seed=params.seed)
    states = States(work / "states", witnesses, watch)
    states.note(model, 0)
    before = hear(model, witnesses)
    if params.method in CLOSED:
        made, history = _method(CLOSED, params.method)(table, model, params)
        states.note(made, 1)
        last = 1
    else:
        made, history = model, _train(table, model, policy, params, states, work)
        last = max((row["epoch"] for row in history if "diverged" not in row), default=0)
    rows = [states.scores(number) for number in range(last + 1)]
    choice = choose(rows, params.choice, labelled=labelled)
    made = made if choice.state else model
    states.restore(made, choice.state)
    told = account(
        params.method,
        states,
        rows,
        choice,
        before=before,
        after=hear(made, witnesses),
        history=history,
        classes=table.classes,
        labelled=labelled,
    )
    if choice.state:  # the start has learned the target's labels already
        made, more = tune_on_target(table, made, policy, params, work=work)
        history = history + more
    return Adapted(made, history, told)


def _train(
    table: ImageTable,
    model: Classifier,
    policy: Policy,
    params: DomainAdaptation,
    states: States,
    work: Path,
) -> History:
    """Train the network, noting its state after each epoch; the last good one is what it ends with."""
    torch.manual_seed(params.seed)  # an adversary's first weights
    domains = load_domains(table, model, policy, params)
    learner, loss = _method(TRAINED, params.method)(model, domains, params)
    phase = Phase(
        name="adapt",
        epochs=params.epochs,
        steps_per_epoch=domains.steps_per_epoch,
        learning_rate=params.learning_rate,
        weight_decay=params.weight_decay,
        schedule=annealed,
        keep="last",
        seed=params.seed,
    )
    validate = validator(model, table, validation_index(table))
    try:
        return fit(
            learner.to(best_device()),
            loss,
            phase,
            work=work,
            validate=validate,
            inspect=states.inspect(model),
        )
    finally:
        unfreeze(model)


def _method(modules: dict[str, str], name: str) -> Callable[..., Any]:
    found: Callable[..., Any] = getattr(importlib.import_module(f"{__name__}.{modules[name]}"), name)
    return found
