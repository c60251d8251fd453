"""Pretraining a backbone on the source domain, where no published weights fit."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from graft.backbones.classifier import Classifier
from graft.backbones.trunk import BackboneConfig, Trunk
from graft.images.augmentation import policy
from graft.images.decoding import load_images
from graft.images.table import ImageTable
from graft.params import Augmentation, Pretrain
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


def pretrain(
    table: ImageTable, trunk: Trunk, config: BackboneConfig, params: Pretrain, *, seed: int, work: Path
) -> tuple[Trunk, History]:
    """Train `trunk` with a throw-away linear head on the source domain's labelled images.

    Where there is one domain, that domain's training images are the source. The source's own
    validation images choose the epoch: the target stays unseen.
    """
    source = "source" if "source" in table.domains else None
    torch.manual_seed(seed)
    head = nn.Linear(config.num_features, len(table.classes))
    model = Classifier(trunk, head, config=config, classes=table.classes).to(best_device())
    streams = domain_batches(
        table,
        labelled_index(table, "train", source),
        config.preprocessing,
        policy(Augmentation(), config.preprocessing),
        batch_size=params.batch_size,
        seed=seed,
    )
    val = labelled_index(table, "val", source)
    images = load_images(table, val if len(val) else validation_index(table), config.preprocessing)
    phase = Phase(
        name="pretrain",
        epochs=params.epochs,
        steps_per_epoch=steps_per_epoch(streams),
        learning_rate=params.learning_rate,
        weight_decay=params.weight_decay,
        seed=seed,
    )
    loss = cross_entropy(model, streams, label_smoothing=0.0)
    history = fit(model, loss, phase, work=work, validate=validator(model, images))
    return model.trunk, history
