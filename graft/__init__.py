"""graft retrains image classifiers by transfer learning."""

from __future__ import annotations

import importlib.abc
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

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


class _TorchvisionOnCpu(importlib.abc.MetaPathFinder):
    """Lets the package index's torchvision import beside a CPU build of torch.

    Its wheel is linked against CUDA. Beside a torch without CUDA its compiled operators do not load,
    and the import then fails as it registers a shape function for an operator nobody declared.
    graft uses no detection operator, so declaring their names is all that is missing.
    """

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            if torch.version.cuda is None:
                arguments = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
                torch.library.define("torchvision::nms", arguments)
                torch.library.define("torchvision::qnms", arguments)
        return None


sys.meta_path.insert(0, _TorchvisionOnCpu())
