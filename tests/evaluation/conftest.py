"""A small world to judge in: squares in corners as classes, two domains, classifiers with ridge heads."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from graft.backbones.classifier import Classifier
from graft.backbones.trunk import build
from graft.images.loading import load_images
from graft.images.table import ImageTable, read_table, write_table

CLASSES = ("bottom", "<i>left</i> & $x_{", "top")  # names that HTML and mathtext would trip over
SIDE = 32


def picture(label: int, domain: str, generator: np.random.Generator) -> bytes:
    """A bright square whose place says the class; the target domain's background is a loud colour."""
    base = np.full((SIDE, SIDE, 3), 30.0) if domain != "target" else np.array([150.0, 40.0, 90.0])
    pixels = base + generator.normal(0, 40, (SIDE, SIDE, 3))
    row, column = ((20, 12), (10, 2), (2, 12), (20, 22))[label]
    row, column = row + int(generator.integers(-2, 3)), column + int(generator.integers(-2, 3))
    pixels[row : row + 8, max(column, 0) : column + 8] += 110
    buffer = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def record(
    label: int, split: str, domain: str, number: int, generator: np.random.Generator
) -> dict[str, Any]:
    content = picture(max(label, 0), domain, generator)
    return {
        "image": {"bytes": content, "path": f"{domain or 'all'}/{split}/{number:04d}.png"},
        "label": label,
        "split": split,
        "domain": domain,
        "width": SIDE,
        "height": SIDE,
        "mode": "RGB",
        "sha256": hashlib.sha256(content).hexdigest(),
        "phash": None,
        "duplicate_of": None,
        "near_duplicate_of": None,
        "leak": False,
    }


def make_table(
    folder: Path, counts: dict[tuple[str, str], int], classes: Sequence[str] = CLASSES
) -> ImageTable:
    """An image table with so many images per (domain, split), classes taking turns."""
    generator = np.random.default_rng(0)
    records = [
        record(-1 if split == "unlabeled" else number % len(classes), split, domain, number, generator)
        for (domain, split), count in counts.items()
        for number in range(count)
    ]
    write_table(folder, records, classes=classes, data_md5="0123456789abcdef0123456789abcdef")
    return read_table(folder)


def make_classifier(
    table: ImageTable, domain: str, images: int, classes: Sequence[str] | None = None
) -> Classifier:
    """A random trunk with a ridge-regression head fitted on the first labelled images of one domain."""
    trunk, config = build("digits_cnn", seed=0)
    known = tuple(classes or table.classes)
    head = nn.Linear(config.num_features, len(known))
    model = Classifier(trunk, head, config=config, classes=known).eval()
    index = table.select(split="train", domain=domain)[:images]
    loaded = load_images(table, index, config.preprocessing)
    names = [table.classes[label] for label in loaded.labels]
    kept = [i for i, name in enumerate(names) if name in known]
    inputs = model.features_pixels(loaded.pixels[kept]).double()
    mean, spread = inputs.mean(0), inputs.std(0) + 1e-6
    scaled = (inputs - mean) / spread
    wanted = torch.eye(len(known), dtype=torch.double)[[known.index(names[i]) for i in kept]]
    gram = scaled.T @ scaled + 10.0 * torch.eye(scaled.shape[1])
    weight = 5 * torch.linalg.solve(gram, scaled.T @ (wanted - 1 / len(known))).T / spread
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(-weight @ mean)
    return model


TWO_DOMAINS = {
    ("source", "train"): 150,
    ("source", "val"): 40,
    ("target", "train"): 60,
    ("target", "val"): 12,
    ("target", "test"): 90,
    ("target", "unlabeled"): 30,
}


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> ImageTable:
    return make_table(tmp_path_factory.mktemp("tables") / "images", TWO_DOMAINS)


@pytest.fixture(scope="session")
def good(table: ImageTable) -> Classifier:
    return make_classifier(table, "target", 12)


@pytest.fixture(scope="session")
def poor(table: ImageTable) -> Classifier:
    return make_classifier(table, "source", 12)


@pytest.fixture
def outputs(tmp_path: Path) -> dict[str, Path]:
    names = {"scores": "scores.json", "predictions": "predictions.parquet", "decision": "decision.json"}
    names |= {"winner": "winner", "report": "report.html", "docs": "docs"}
    return {key: tmp_path / "out" / name for key, name in names.items()}


@pytest.fixture(scope="session")
def build_table() -> Callable[..., ImageTable]:
    return make_table


@pytest.fixture(scope="session")
def build_classifier() -> Callable[..., Classifier]:
    return make_classifier
