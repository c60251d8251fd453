"""A pretrained trunk without its last stages, new blocks on it, and a linear head, trained together."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from graft.backbones import structures
from graft.backbones.classifier import Classifier
from graft.images.augmentation import Policy
from graft.images.table import ImageTable
from graft.methods.lesson import prepare
from graft.methods.stage_decisions import NEW_RATE
from graft.params import FineTuning
from graft.training.device import best_device
from graft.training.freezing import keep_statistics, unfreeze
from graft.training.loop import History, fit
from graft.training.statistics import unbiased_statistics

_KEPT = "network.kept."  # what is pretrained, within the trunk


def hybrid(
    table: ImageTable, model: Classifier, policy: Policy, params: FineTuning, *, work: Path
) -> tuple[Classifier, History]:
    """Keep the general layers of a network, and let new ones take the place of its special ones.

    Args:
        table: Where the images are; validation chooses the epoch.
        model: Its trunk's architecture has a sequence `features`, as VGG and MobileNet have; its head is
            not used.
        policy: The augmentation of training images.
        params: `hybrid` says what is dropped and what is built.
        work: Folder for checkpoints.

    Returns:
        The new classifier, and one row an epoch. What is new learns `NEW_RATE` times as fast.

    Raises:
        GraftError: the architecture has no such sequence, or fewer stages.
    """
    wanted = params.hybrid
    trunk, config = structures.hybrid(
        *structures.plain(model.trunk, model.config),
        drop=wanted.drop,
        blocks=wanted.blocks,
        count=wanted.count,
        width=wanted.width,
        seed=params.seed,
    )
    torch.manual_seed(params.seed)
    head = nn.Linear(config.num_features, len(table.classes))
    made = Classifier(trunk, head, config=config, classes=table.classes).to(best_device())
    new = {name for name, _ in trunk.named_parameters() if not name.startswith(_KEPT)}
    lesson = prepare(table, made, policy, params, new=new)
    kept, fresh = trunk.network.get_submodule("kept"), trunk.network.get_submodule("new")
    if lesson.plan.stored:
        keep_statistics(kept)
    phase = lesson.phase("hybrid", lesson.plan.epochs, rates=_rate)
    with unbiased_statistics([fresh]):
        history = fit(made, lesson.loss, phase, work=work, validate=lesson.validate)
    unfreeze(trunk)
    return made, history


def _rate(name: str) -> float:
    return 1.0 if name.startswith(f"trunk.{_KEPT}") else NEW_RATE
