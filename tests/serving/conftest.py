"""A small classifier, pictures, and the commands."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from torch import nn

from graft.backbones.classifier import Classifier, save_classifier
from graft.backbones.trunk import build
from pipelines.commands_serving import export, predict

CLASSES = ("ant", "bee", "cat", "dog")


@cache
def _classifier(backbone: str) -> Classifier:
    """With random weights of the head large enough that the answers differ from image to image."""
    trunk, config = build(backbone, seed=0)
    head = nn.Linear(config.num_features, len(CLASSES))
    with torch.no_grad():
        head.weight.copy_(torch.randn(head.weight.shape, generator=torch.Generator().manual_seed(0)))
    return Classifier(trunk, head, config=config, classes=CLASSES).eval()


@pytest.fixture(scope="session")
def classifier() -> Callable[[str], Classifier]:
    """Makes a classifier of a backbone's name."""
    return _classifier


@pytest.fixture(scope="session")
def model() -> Classifier:
    return _classifier("digits_cnn")


@pytest.fixture(scope="session")
def folder(model: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model's folder."""
    path = tmp_path_factory.mktemp("model") / "winner"
    save_classifier(model, path, method="probe")
    return path


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """7 good images (two below `deep/`), a broken one, a hidden one and a text file."""
    place, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    names = ["a.png", "b.jpg", "c.bmp", "d.PNG", "[e].png", "deep/f.png", "deep/er/g.tif", ".hidden.png"]
    for name in names:
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8).repeat(12, 0).repeat(12, 1)
        Image.fromarray(pixels).save(path)
    whole = (place / "b.jpg").read_bytes()
    (place / "broken.jpg").write_bytes(whole[: len(whole) * 3 // 4])
    (place / "notes.txt").write_text("no image")
    return place


@pytest.fixture
def graft_command() -> Callable[..., Result]:
    """Runs `graft` with the commands of serving; what is raised is raised."""
    group = click.Group(commands=[predict, export])

    def run(*arguments: str | Path) -> Result:
        return CliRunner().invoke(group, [str(each) for each in arguments], catch_exceptions=False)

    return run
