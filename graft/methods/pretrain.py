"""Pretraining a backbone on the source domain, where no published weights fit."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from graft.backbones.classifier import Classifier
from graft.backbones.trunk import BackboneConfig, Trunk
from graft.images.augmentation import policy
from graft.images.table import ImageTable
from graft.params import Augmentation, Pretrain
from graft.training.device import best_device
from graft.training.loop import History, Phase, fit
from graft.training.supervised import labelled_index, supervise


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
    val = labelled_index(table, "val", source)
    loss, validate, steps = supervise(
        model,
        table,
        labelled_index(table, "train", source),
        policy(Augmentation(), config.preprocessing),
        batch_size=params.batch_size,
        label_smoothing=0.0,
        seed=seed,
        validation=val if len(val) else None,
    )
    phase = Phase(
        name="pretrain",
        epochs=params.epochs,
        steps_per_epoch=steps,
        learning_rate=params.learning_rate,
        weight_decay=params.weight_decay,
        seed=seed,
    )
    history = fit(model, loss, phase, work=work, validate=validate)
    return model.trunk, history
