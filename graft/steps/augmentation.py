"""Step: augmented views of the training images, and the policy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graft.images.views import write_views
from graft.params import Augmentation, parse
from graft.progress import say


def run(*, augmentation: Mapping[str, Any], images: Path, views: Path) -> None:
    """See components/augmentation.py."""
    written = write_views(images, parse(Augmentation, augmentation, "params: augmentation"), views)
    if "note" in written:
        say(f"augmentation: {written['note']}")
