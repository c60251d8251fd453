"""A small classifier that every method can teach."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from graft.backbones.classifier import Classifier
from graft.backbones.trunk import build
from graft.images.table import ImageTable

Learner = Callable[..., Classifier]


@pytest.fixture
def learner(table: ImageTable) -> Learner:
    """Makes a classifier of the table's classes with random weights, the same each time."""

    def make(name: str = "digits_cnn") -> Classifier:
        trunk, config = build(name, seed=0)
        torch.manual_seed(0)
        head = nn.Linear(config.num_features, len(table.classes))
        return Classifier(trunk, head, config=config, classes=table.classes)

    return make
