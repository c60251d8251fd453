"""Small made-up photographs."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Photo = Callable[..., Image.Image]


@pytest.fixture(scope="session")
def photo() -> Photo:
    """photo(seed, size=(48, 32)): an RGB picture of soft blobs, different for every seed."""

    def make(seed: int, size: tuple[int, int] = (48, 32)) -> Image.Image:
        noise = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
        return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)

    return make


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where steps keep what they made; it does not exist yet."""
    monkeypatch.setenv("GRAFT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="session")
def encoded() -> Callable[..., bytes]:
    """encoded(image, format, **options): the bytes of an image file."""

    def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
        stream = io.BytesIO()
        image.save(stream, kind, **options)
        return stream.getvalue()

    return encode


@pytest.fixture
def data_folder(tmp_path: Path, photo: Photo) -> Callable[..., Path]:
    """data_folder({"train/ant": 3, ...}): that many different photos in each folder."""

    def make(counts: dict[str, int], name: str = "data") -> Path:
        seed = 0
        for place, number in counts.items():
            (tmp_path / name / place).mkdir(parents=True, exist_ok=True)
            for _ in range(number):
                photo(seed).save(tmp_path / name / place / f"{seed:04d}.png")
                seed += 1
        return tmp_path / name

    return make
