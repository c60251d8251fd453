"""Step: augmented views of the training images, and the policy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graft.images.views import write_views
from graft.params import Augmentation, parse
from graft.steps.running import run_step


def run(*, augmentation: Mapping[str, Any], images: str, views: str) -> None:
    """See components/augmentation.py."""
    run_step(
        "augmentation",
        _augment,
        settings={"augmentation": augmentation},
        inputs={"images": images},
        outputs={"views": views},
    )


def _augment(*, augmentation: Mapping[str, Any], images: Path, views: Path) -> None:
    write_views(images, parse(Augmentation, augmentation, "params: augmentation"), views)
