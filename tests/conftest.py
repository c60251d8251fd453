"""Fixtures that every floor uses."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from graft.images.table import ImageTable, read_table
from graft.images.validation import validate
from graft.params import Data

ROOT = Path(__file__).resolve().parent.parent
os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # eight processes less for each server


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real photographs and weights beside the checkout; the test is skipped without it."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"needs real photographs and weights in {folder}, which is absent")
    return folder


@pytest.fixture
def float32() -> Iterator[None]:
    """Networks compute in float32 on every CPU: for results that are equal up to its rounding."""
    from graft.backbones.precision import computing_in

    with computing_in("float32"):
        yield


SHAPES = ("bar", "disc", "frame")


def draw_shape(name: str, rng: np.random.Generator, *, target: bool) -> Image.Image:
    """A white shape at a random place, on black (source) or inverted over noise (target)."""
    picture = Image.new("L", (32, 32))
    x, y = (int(v) for v in rng.integers(3, 11, 2))
    box = (x, y, x + 16, y + 16)
    pen = ImageDraw.Draw(picture)
    if name == "bar":
        pen.rectangle((x, y + 6, x + 16, y + 10), fill=255)
    elif name == "disc":
        pen.ellipse(box, fill=255)
    else:
        pen.rectangle(box, outline=255, width=3)
    pixels = np.asarray(picture, dtype=np.int16)[:, :, None].repeat(3, 2)
    background = rng.integers(0, 120 if target else 20, (32, 32, 3))
    return Image.fromarray(np.abs(background - pixels).clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="session")
def two_domains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder of three shapes in two domains: 60 source, 24 target (half test), 30 unlabelled."""
    folder, rng = tmp_path_factory.mktemp("two_domains"), np.random.default_rng(0)
    parts = {"source": 20, "target/train": 4, "target/test": 4, "target/unlabeled": 10}
    for part, count in parts.items():
        for shape in SHAPES:
            place = folder / part / ("" if part.endswith("unlabeled") else shape)
            place.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                image = draw_shape(shape, rng, target=part.startswith("target"))
                image.save(place / f"{shape}{number}.png")
    return folder


@pytest.fixture(scope="session")
def table(two_domains: Path, tmp_path_factory: pytest.TempPathFactory) -> ImageTable:
    """The image table of `two_domains`."""
    work = tmp_path_factory.mktemp("table")
    validate(two_domains, Data(), work / "images", work / "docs")
    return read_table(work / "images")
