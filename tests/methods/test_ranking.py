"""Backbones are ranked by the labelled training images of the domain that counts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from graft.backbones.trunk import BackboneConfig, Trunk, build
from graft.errors import GraftError
from graft.images.table import ImageTable
from graft.methods import ranking
from graft.methods.ranking import rank
from graft.params import Backbone

RANDOM = Backbone(name="digits_cnn", weights="random")


class Blind(nn.Module):
    """Gives the same features whatever it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight.expand(len(x), -1)


def test_a_seeing_network_is_above_a_blind_one(table: ImageTable, monkeypatch: pytest.MonkeyPatch) -> None:
    def prepare(backbone: Backbone) -> tuple[Trunk, BackboneConfig]:
        trunk, config = build(backbone.name)
        return (Trunk(Blind(), num_features=64), config) if backbone.name == "resnet20" else (trunk, config)

    monkeypatch.setattr(ranking, "prepare", prepare)
    first, second = rank(table, [Backbone(name="resnet20", weights="random"), RANDOM])
    assert (first.name, second.name) == ("digits_cnn", "resnet20")
    assert first.log_me > second.log_me
    assert first.h_score > second.h_score == 0
    assert (first.num_features, second.num_features) == (128, 64)
    assert first.problem is None
    assert first.seconds > 0


def test_what_cannot_be_had_is_named_and_the_rest_ranked(table: ImageTable) -> None:
    backbones = [
        Backbone(name="resnet20", weights="nowhere.pth"),
        Backbone(name="resnet81", weights="random"),
        Backbone(name="resnet20", weights="pretrain"),
        RANDOM,
    ]
    found, *failed = rank(table, backbones)
    assert found.name == "digits_cnn"
    assert math.isfinite(found.log_me + found.h_score)
    problems = {each.problem or "" for each in failed}
    assert len(problems) == 3
    for part in ("nowhere.pth does not exist", "no architecture 'resnet81'", "ranking trains nothing"):
        assert any(part in problem for problem in problems)
    assert all(math.isnan(each.log_me) for each in failed)


def test_only_labelled_training_images_of_the_target_count(
    table: ImageTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[np.ndarray] = []

    def spy(features: np.ndarray, labels: np.ndarray) -> float:
        seen.append(labels)
        return 0.0

    monkeypatch.setattr(ranking, "log_me", spy)
    rank(table, [RANDOM])
    rows = table.rows
    chosen = rows[(rows["domain"] == "target") & (rows["split"] == "train") & (rows["label"] >= 0)]
    assert len(chosen) > 0
    assert sorted(seen[0]) == sorted(chosen["label"])


def test_one_class_cannot_be_ranked(table: ImageTable) -> None:
    one = ImageTable(table.path, table.classes, table.domains, table.data_md5, table.rows.assign(label=0))
    with pytest.raises(GraftError, match="1 class"):
        rank(one, [RANDOM])
