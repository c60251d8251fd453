"""Training from scratch on the target's labelled images: the baseline that exposes negative transfer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from graft.backbones.classifier import Classifier
from graft.backbones.structures import rebuild
from graft.images.augmentation import Policy
from graft.images.table import ImageTable
from graft.methods.lesson import prepare
from graft.params import FineTuning
from graft.training.device import best_device
from graft.training.loop import History, fit
from graft.training.statistics import unbiased_statistics
from graft.training.supervised import labelled_index

# The planned rate is one for layers that know something already.
LEARNING_RATE = 1e-3


def scratch(
    table: ImageTable, model: Classifier, policy: Policy, params: FineTuning, *, work: Path
) -> tuple[Classifier, History]:
    """Train the backbone's architecture from random weights on the target's labelled images alone.

    Where the target has no labelled image, on all labelled images.

    Args:
        table: Where the images are; validation chooses the epoch.
        model: Says which architecture; its weights are neither read nor changed.
        policy: The augmentation of training images.
        params: Of the section, `baseline_epochs` is the duration. What concerns pretrained weights
            (l2_sp, layer_decay, interpolation) has no meaning here.
        work: Folder for checkpoints.
    """
    config = model.config
    trunk = rebuild(config, params.seed)
    torch.manual_seed(params.seed)
    head = nn.Linear(config.num_features, len(table.classes))
    fresh = Classifier(trunk, head, config=config, classes=table.classes).to(best_device())
    target = labelled_index(table, "train", table.target)
    alone = params.model_copy(update={"l2_sp": 0.0, "learning_rate": params.learning_rate or LEARNING_RATE})
    lesson = prepare(table, fresh, policy, alone, index=target if len(target) else None)
    phase = replace(lesson.phase("scratch", params.baseline_epochs), patience=None)
    with unbiased_statistics([fresh]):
        return fresh, fit(fresh, lesson.loss, phase, work=work, validate=lesson.validate)
