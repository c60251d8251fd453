"""After adaptation: the target's labelled images once more, where there are any."""

from __future__ import annotations

from pathlib import Path

from graft.backbones.classifier import Classifier
from graft.images.augmentation import Policy
from graft.images.table import ImageTable
from graft.params import DomainAdaptation
from graft.training.loop import History, Phase, fit
from graft.training.supervised import labelled_index, supervise

# Few labelled images: a tenth of the rate keeps what adaptation found.
RATE = 0.1


def tune_on_target(
    table: ImageTable, model: Classifier, policy: Policy, params: DomainAdaptation, *, work: Path
) -> tuple[Classifier, History]:
    """Fine-tune all layers on the target's labelled training images, in place."""
    index = labelled_index(table, "train", "target")
    if not len(index) or not params.target_epochs:
        return model, []
    loss, validate, steps = supervise(
        model,
        table,
        index,
        policy,
        batch_size=params.batch_size,
        label_smoothing=0.0,
        seed=params.seed,
    )
    phase = Phase(
        name="target",
        epochs=params.target_epochs,
        steps_per_epoch=steps,
        learning_rate=params.learning_rate * RATE,
        weight_decay=params.weight_decay,
        keep="last",
        seed=params.seed,
    )
    return model, fit(model, loss, phase, work=work, validate=validate)
