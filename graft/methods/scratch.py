"""Training from scratch on the target's labelled images: the baseline that exposes negative transfer."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from graft.backbones.classifier import Classifier
from graft.backbones.trunk import BackboneConfig, build
from graft.images.augmentation import Policy
from graft.images.decoding import load_images
from graft.images.table import ImageTable
from graft.params import FineTuning
from graft.training.device import best_device
from graft.training.loop import History, Phase, fit
from graft.training.supervised import (
    cross_entropy,
    domain_batches,
    labelled_index,
    steps_per_epoch,
    validation_index,
    validator,
)


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
    streams = domain_batches(
        table,
        target if len(target) else labelled_index(table, "train"),
        config.preprocessing,
        policy,
        batch_size=params.batch_size,
        seed=params.seed,
    )
    phase = Phase(
        name="scratch",
        epochs=params.baseline_epochs,
        steps_per_epoch=steps_per_epoch(streams),
        learning_rate=params.learning_rate,
        weight_decay=params.weight_decay,
        seed=params.seed,
    )
    images = load_images(table, validation_index(table), config.preprocessing)
    loss = cross_entropy(model, streams, params.label_smoothing)
    return model, fit(model, loss, phase, work=work, validate=validator(model, images))
