"""Step: a folder of images becomes the image table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graft.images.validation import validate
from graft.params import Data, parse


def run(*, data: Mapping[str, Any], folder: Path, images: Path, docs: Path) -> None:
    """See components/data_validation.py."""
    validate(folder, parse(Data, data, "params: data"), images, docs)
