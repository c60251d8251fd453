"""Bars that lie or stand over noise, a classifier that knows them, and folders of new ones."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from graft.backbones.classifier import Classifier, save_classifier
from graft.backbones.trunk import build
from graft.images.loading import load_images
from graft.images.table import ImageTable, read_table, write_table

CLASSES = ("<i>lying</i> & $x_{", "standing")  # a name that HTML would trip over
COUNTS = {"train": 300, "val": 60, "test": 60}
Folder = Callable[..., Path]


def bar(label: int, generator: np.random.Generator, *, tint: int = 0) -> bytes:
    """One PNG; a tinted one looks different and is as easy."""
    shape = np.zeros((32, 32))
    across, along = generator.integers(4, 24, 2)
    shape[across : across + 5, along - 4 : along + 12] = 1
    pixels = 60 + generator.normal(0, 20, (32, 32)) + 150 * (shape.T if label else shape)
    rgb = pixels[:, :, None] + np.array([tint, 0, -tint])
    buffer = io.BytesIO()
    Image.fromarray(rgb.clip(0, 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def records() -> list[dict[str, Any]]:
    """Of the image table, in the order train, val, test."""
    generator = np.random.default_rng(0)
    found = []
    for split, count in COUNTS.items():
        for number in range(count):
            content = bar(number % 2, generator)
            flags = {"phash": None, "duplicate_of": None, "near_duplicate_of": None, "leak": False}
            facts = {
                "label": number % 2,
                "split": split,
                "domain": "",
                "mode": "RGB",
                "width": 32,
                "height": 32,
            }
            image = {"bytes": content, "path": f"{split}/{number}.png"}
            found.append({"image": image, "sha256": hashlib.sha256(content).hexdigest()} | flags | facts)
    return found


@pytest.fixture(scope="session")
def table(records: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> ImageTable:
    folder = tmp_path_factory.mktemp("bars") / "images"
    write_table(folder, records, classes=CLASSES, data_md5="0123456789abcdef0123456789abcdef")
    return read_table(folder)


@pytest.fixture(scope="session")
def model(table: ImageTable) -> Classifier:
    """A random trunk with a logistic-regression head fitted on the training images."""
    from sklearn.linear_model import LogisticRegression

    trunk, config = build("digits_cnn", seed=0)
    loaded = load_images(table, table.select(split="train"), config.preprocessing)
    found = Classifier(trunk, nn.Linear(config.num_features, 2), config=config, classes=CLASSES).eval()
    features = found.features_pixels(loaded.pixels).numpy()
    spread = features.std(axis=0) + 1e-6
    fitted = LogisticRegression(C=0.1, max_iter=500).fit(features / spread, loaded.labels.numpy())
    weight = torch.from_numpy(fitted.coef_[0] / spread).float() / 2
    with torch.no_grad():
        found.head.weight.copy_(torch.stack([-weight, weight]))
        found.head.bias.copy_(torch.tensor([-1.0, 1.0]) * float(fitted.intercept_[0]) / 2)
    return found


@pytest.fixture(scope="session")
def model_folder(model: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_classifier(model, folder, method="probe")
    return folder


@pytest.fixture
def folder(model: Classifier, tmp_path: Path) -> Folder:
    """Makes a folder of new images: tinted, or hard (the least certain of many), or just new."""

    def make(count: int = 100, *, seed: int = 1, tint: int = 0, hard: bool = False) -> Path:
        place, generator = tmp_path / "new", np.random.default_rng(seed)
        images = [bar(number % 2, generator, tint=tint) for number in range(5 * count if hard else count)]
        if hard:
            order = np.argsort(model.predict(images).max(axis=1))
            images = [images[position] for position in order[:count]]
        for number, content in enumerate(images):
            file = place / f"camera{number % 3}" / f"{number:03d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        return place

    return make
