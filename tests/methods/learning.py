"""What the tests of single methods share: a small classifier, changed labels, and a run that is killed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

from graft.backbones.classifier import Classifier
from graft.backbones.trunk import build
from graft.images.table import ImageTable
from graft.training.loop import on_epoch

Rows = list[dict[str, Any]]


def classifier(table: ImageTable, seed: int = 0) -> Classifier:
    trunk, config = build("digits_cnn", seed=seed)
    torch.manual_seed(seed)
    head = nn.Linear(config.num_features, len(table.classes))
    return Classifier(trunk, head, config=config, classes=table.classes)


def relabelled(table: ImageTable, chosen: pd.Series, label: int) -> ImageTable:
    rows = table.rows.copy()
    rows.loc[chosen, "label"] = label
    return dataclasses.replace(table, rows=rows)


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def killed_and_resumed(
    train: Callable[[Path], tuple[Classifier, Rows]], work: Path, *, after: int
) -> tuple[Classifier, Rows]:
    """Train in `work`, be killed after so many epochs in all, and train there again."""
    seen: Rows = []

    def kill(row: dict[str, Any]) -> None:
        seen.append(row)
        if len(seen) == after:
            raise KeyboardInterrupt

    token = on_epoch.set(kill)
    with pytest.raises(KeyboardInterrupt):
        train(work)
    on_epoch.reset(token)
    torch.manual_seed(99)  # whatever ran before must not matter
    return train(work)
