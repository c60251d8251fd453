"""The one form every method's result takes: a trunk, a head and its classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from graft.backbones import tensors
from graft.backbones.features import batches, evaluating, extract
from graft.backbones.heads import Head, describe, make_head
from graft.backbones.inputs import ImageLike, stack_pixels
from graft.backbones.structures import rebuild
from graft.backbones.trunk import BackboneConfig, Trunk, read_config
from graft.errors import GraftError
from graft.files import remove, write_json

FORMAT = "graft-classifier-1"


class Classifier(nn.Module):
    """A trunk with a head.

    Args:
        trunk: Gives features (N, F).
        head: From F features to one logit per class: a linear layer, or another of `heads`.
        config: What the trunk is and how its images are prepared.
        classes: Names, in the order of the logits.

    Shape:
        (N, 3, S, S) float, normalised -> logits (N, C)
    """

    def __init__(self, trunk: Trunk, head: Head, *, config: BackboneConfig, classes: Sequence[str]) -> None:
        super().__init__()
        if (head.in_features, head.out_features) != (config.num_features, len(classes)):
            raise ValueError(f"{head} does not map {config.num_features} features to {len(classes)} classes")
        self.trunk = trunk
        self.head = head
        self.config = config
        self.classes = tuple(classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.trunk(x))
        return logits

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.trunk.parameters()).device

    @torch.inference_mode()
    def predict_pixels(self, pixels: Tensor, batch_size: int = 128) -> np.ndarray:
        """Class probabilities, in eval mode; the model's training state is left as it was.

        Args:
            pixels: uint8 (N, 3, R, R), R = the config's resize_size.
            batch_size: Images at a time.

        Returns:
            float32 (N, C); every row sums to 1.
        """
        parts = [torch.empty(0, len(self.classes))]
        with evaluating(self):
            for x in batches(pixels, self.config.preprocessing, batch_size, self.device):
                parts.append(self(x).float().softmax(1).cpu())
        return torch.cat(parts).numpy()

    def predict(self, images: Sequence[ImageLike] | np.ndarray) -> np.ndarray:
        """Class probabilities of encoded images (bytes), files, PIL images or uint8 arrays (H, W[, 3]).

        Returns:
            float32 (N, C); every row sums to 1.

        Raises:
            GraftError: one of them is not an image; it is named.
        """
        return self.predict_pixels(stack_pixels(images, self.config.preprocessing))

    def features_pixels(self, pixels: Tensor, batch_size: int = 128) -> Tensor:
        """The trunk's features: uint8 (N, 3, R, R) -> float32 (N, F), on the CPU."""
        return extract(self.trunk, self.config, pixels, batch_size)


def save_classifier(
    model: Classifier, folder: str | Path, *, method: str, extra: dict[str, Any] | None = None
) -> None:
    """Write `weights.safetensors`, then `model.json`, which names its sha256.

    Equal weights give equal bytes. Other files in the folder stay.

    Args:
        model: What to store.
        folder: Made where it does not exist.
        method: Name of the method that trained it.
        extra: Further entries of model.json.

    Raises:
        GraftError: the disk is full.
    """
    folder = Path(folder)
    remove(folder / "model.json")  # while the weights change there is no model here
    digest = tensors.save(model.state_dict(), folder / "weights.safetensors")
    description = {
        "format": FORMAT,
        "method": method,
        "classes": list(model.classes),
        "backbone": model.config.to_dict(),
        "head": describe(model.head),
        "weights_sha256": digest,
    }
    write_json(folder / "model.json", {**(extra or {}), **description})


def load_classifier(folder: str | Path) -> Classifier:
    """Read what `save_classifier` wrote, in eval mode.

    Raises:
        GraftError: the folder holds no classifier, a half-written one, or one whose weights were changed.
    """
    folder = Path(folder)
    values = read_model_json(folder)
    if "skipped" in values:
        raise GraftError(
            f"{folder} holds no classifier: it was skipped ({values['skipped']})",
            "leave this candidate out; graft.backbones.classifier.skipped() tells",
        )
    config = read_config(values["backbone"], folder / "model.json")
    state = tensors.load(folder / "weights.safetensors", sha256=values["weights_sha256"])
    head = make_head(values["head"], len(values["classes"]))
    model = Classifier(rebuild(config), head, config=config, classes=values["classes"])
    tensors.fill(model, state, what=f"{folder} ({config.name})")
    return model.eval()


def read_model_json(folder: str | Path) -> dict[str, Any]:
    """The description of a candidate: a classifier, or why there is none.

    Raises:
        GraftError: there is no model.json, it is not whole, or another program wrote it.
    """
    path = Path(folder) / "model.json"
    again = "run the step that trains this model again"
    values = tensors.read_description(path, again)
    if "skipped" in values:
        return values
    missing = {"format", "method", "classes", "backbone", "head", "weights_sha256"} - values.keys()
    if missing or values["format"] != FORMAT:
        wrong = f"lacks {', '.join(sorted(missing))}" if missing else f"has format {values['format']!r}"
        raise GraftError(f"{path} {wrong}: it does not describe a classifier of this graft", again)
    return values


def write_skipped(folder: str | Path, reason: str) -> None:
    """Say in a candidate's folder that there is no model, and why."""
    write_json(Path(folder) / "model.json", {"skipped": reason})


def skipped(folder: str | Path) -> str | None:
    """Why this candidate has no model; None where it has one.

    Raises:
        GraftError: the folder holds neither.
    """
    return read_model_json(folder).get("skipped")
