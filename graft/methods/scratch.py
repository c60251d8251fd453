"""Training from scratch on the target's labelled images: the baseline that exposes negative transfer."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from graft.backbones.classifier import Classifier
from graft.backbones.trunk import BackboneConfig, build
from graft.images.augmentation import Policy
from graft.images.table import ImageTable
from graft.params import FineTuning
from graft.training.device import best_device
from graft.training.loop import History, Phase, fit
from graft.training.supervised import labelled_index, supervise


def scratch(
    table: ImageTable, config: BackboneConfig, policy: Policy, params: FineTuning, *, work: Path
) -> tuple[Classifier, History]:
    """Train the backbone's architecture from random weights on the target's labelled images alone.

    Where the target has no labelled image, on all labelled images.
    """
    trunk, _ = build(config.name, seed=params.seed)
    torch.manual_seed(params.seed)
    head = nn.Linear(config.num_features, len(table.classes))
    model = Classifier(trunk, head, config=config, classes=table.classes).to(best_device())
    target = labelled_index(table, "train", table.target)
    loss, validate, steps = supervise(
        model,
        table,
        target if len(target) else labelled_index(table, "train"),
        policy,
        batch_size=params.batch_size,
        label_smoothing=params.label_smoothing,
        seed=params.seed,
    )
    phase = Phase(
        name="scratch",
        epochs=params.baseline_epochs,
        steps_per_epoch=steps,
        learning_rate=params.learning_rate,
        weight_decay=params.weight_decay,
        seed=params.seed,
    )
    return model, fit(model, loss, phase, work=work, validate=validate)
