"""What every method that teaches a classifier the labelled images has in common."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import pandas as pd

from graft.backbones.classifier import Classifier
from graft.images.augmentation import Policy
from graft.images.table import ImageTable
from graft.methods.hyperrule import Plan, plan
from graft.methods.regularising import l2_sp
from graft.params import FineTuning
from graft.training.groups import same_rate
from graft.training.loop import Loss, Phase, Validate
from graft.training.schedules import SCHEDULES
from graft.training.supervised import labelled_index, supervise


@dataclass(frozen=True)
class Lesson:
    """The loss on the labelled images, the score that chooses the epoch, and how long and fast to learn.

    Attributes:
        params: The section.
        plan: Its open numbers, filled in.
        loss, validate, steps_per_epoch: For `fit`; `validate` is None without validation images.
    """

    params: FineTuning
    plan: Plan
    loss: Loss
    validate: Validate | None
    steps_per_epoch: int

    def phase(
        self, name: str, epochs: int, *, rates: Callable[[str], float] = same_rate, seed: int = 0
    ) -> Phase:
        """A phase as the params want it; `seed` is added to theirs, so that no two phases draw alike."""
        return Phase(
            name=name,
            epochs=epochs,
            steps_per_epoch=self.steps_per_epoch,
            learning_rate=self.plan.learning_rate,
            # L2-SP takes the place of weight decay, and has its own term for what is new.
            weight_decay=0.0 if self.params.l2_sp else self.params.weight_decay,
            schedule=SCHEDULES[self.params.schedule],
            patience=self.params.patience,
            seed=self.params.seed + seed,
            rates=rates,
            ema=self.params.ema,
        )


def prepare(
    table: ImageTable,
    model: Classifier,
    policy: Policy,
    params: FineTuning,
    *,
    index: pd.Index | None = None,
    new: Collection[str] = (),
) -> Lesson:
    """Load the images and plan the training.

    Args:
        table: Where the images are; the test split is not read.
        model: What will learn; with `params.l2_sp`, its trunk's weights now are where the pull goes.
        policy: The augmentation.
        params: The section; what is None is planned.
        index: Rows to learn from; by default every domain's labelled training images.
        new: Names, within the trunk, of parameters that start anew; L2-SP pulls them nowhere.
    """
    index = labelled_index(table, "train") if index is None else index
    planned = plan(params, input_size=model.config.preprocessing.input_size, images=len(index))
    loss, validate, steps = supervise(
        model,
        table,
        index,
        policy,
        batch_size=planned.batch_size,
        label_smoothing=params.label_smoothing,
        seed=params.seed,
    )
    if params.l2_sp:
        loss = l2_sp(loss, model, alpha=params.l2_sp, beta=params.weight_decay, new=new)
    return Lesson(params, planned, loss, validate, steps)
