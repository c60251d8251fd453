"""Adaptation in bfloat16 learns as it does in float32: no weight is cast where its gradient is lost."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from graft.adaptation import adapt
from graft.backbones.classifier import Classifier
from graft.backbones.trunk import build
from graft.images.augmentation import policy
from graft.images.table import ImageTable
from graft.params import Augmentation, DomainAdaptation


@pytest.mark.parametrize("method", ["dann", "self_training", "shot"])
def test_every_weight_learns_in_bfloat16(method: str, table: ImageTable, tmp_path: Path) -> None:
    trunk, config = build("digits_cnn")
    torch.manual_seed(0)
    head = nn.Linear(config.num_features, len(table.classes))
    model = Classifier(trunk, head, config=config, classes=table.classes)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    params = DomainAdaptation(
        method=method, epochs=1, batch_size=16, precision="bfloat16", choice="last", target_epochs=0
    )
    made = adapt(table, model, policy(Augmentation(), config.preprocessing), params, work=tmp_path)
    assert not [row for row in made.history if "diverged" in row]
    moved = {
        name for name, tensor in made.model.state_dict().items() if not torch.equal(tensor, before[name])
    }
    frozen = {"head.weight", "head.bias"} if method == "shot" else set()  # its hypothesis is the source's
    assert {name for name, _ in made.model.named_parameters()} - moved == frozen
