"""graft retrains image classifiers by transfer learning."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from graft.importing_torchvision import TorchvisionFinder

if TYPE_CHECKING:
    from graft.backbones.classifier import Classifier

__version__ = "0.1.0"


def load(path: str | Path) -> Classifier:
    """Load the classifier stored in a folder (`model.json` and `weights.safetensors`).

    Raises:
        GraftError: the folder holds no whole classifier.
    """
    from graft.backbones.classifier import load_classifier

    return load_classifier(Path(path))


sys.meta_path.insert(0, TorchvisionFinder())
