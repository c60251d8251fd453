"""Fine-tuning a pretrained backbone: the head first, then all layers (LP-FT, Kumar et al. 2022)."""

from __future__ import annotations

from pathlib import Path

from graft.backbones.classifier import Classifier
from graft.images.augmentation import Policy
from graft.images.table import ImageTable
from graft.params import FineTuning
from graft.training.freezing import freeze, unfreeze
from graft.training.loop import History, Phase, fit
from graft.training.supervised import labelled_index, supervise

# A new head learns ten times as fast as layers that already know something.
HEAD_RATE = 10.0


def fine_tune(
    table: ImageTable, model: Classifier, policy: Policy, params: FineTuning, *, work: Path
) -> tuple[Classifier, History]:
    """Train `model` on every domain's labelled training images, in place.

    Args:
        table: Where the images are; validation chooses the epoch.
        model: A pretrained trunk with the head that a linear probe found, so that the first steps do
            not tear up good features.
        policy: The augmentation of training images.
        params: `method` picks the layers: `head_only`, `all`, or `head_then_all`.
        work: Folder for checkpoints.
    """
    loss, validate, steps = supervise(
        model,
        table,
        labelled_index(table, "train"),
        policy,
        batch_size=params.batch_size,
        label_smoothing=params.label_smoothing,
        seed=params.seed,
    )
    history: History = []
    for phase in _phases(params, steps):
        (freeze if phase.name == "head" else unfreeze)(model.trunk)
        history += fit(model, loss, phase, work=work, validate=validate)
    unfreeze(model.trunk)
    return model, history


def _phases(params: FineTuning, steps: int) -> list[Phase]:
    head = Phase(
        name="head",
        epochs=params.epochs if params.method == "head_only" else params.head_epochs,
        steps_per_epoch=steps,
        learning_rate=params.learning_rate * HEAD_RATE,
        weight_decay=params.weight_decay,
        patience=params.patience,
        seed=params.seed,
    )
    everything = Phase(
        name="all",
        epochs=params.epochs,
        steps_per_epoch=steps,
        learning_rate=params.learning_rate,
        weight_decay=params.weight_decay,
        patience=params.patience,
        seed=params.seed + 1,
    )
    wanted = {"head_only": [head], "all": [everything], "head_then_all": [head, everything]}
    return [phase for phase in wanted[params.method] if phase.epochs]
