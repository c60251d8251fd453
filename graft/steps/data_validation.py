"""Step: a folder of images becomes the image table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graft.files import folder_md5
from graft.images.validation import validate
from graft.params import Data, parse
from graft.steps.running import run_step


def run(*, data: Mapping[str, Any], folder: str, images: str, docs: str) -> None:
    """See components/data_validation.py."""
    digest = folder_md5(folder) if Path(folder).is_dir() else "absent"
    run_step(
        "data_validation",
        _validate,
        settings={"data": data, "folder": str(folder), "data_md5": digest},
        inputs={},
        outputs={"images": images, "docs": docs},
    )


def _validate(*, data: Mapping[str, Any], folder: str, data_md5: str, images: Path, docs: Path) -> None:
    validate(Path(folder), parse(Data, data, "params: data"), images, docs)
