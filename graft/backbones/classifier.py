"""The one form every method's result takes: a trunk, a head and its classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from graft.backbones import tensors
from graft.backbones.descriptions import FORMAT, read_model_json
from graft.backbones.features import batches, evaluating, extract, extractor
from graft.backbones.heads import Head, describe, make_head
from graft.backbones.inputs import ImageLike, stack_pixels
from graft.backbones.precision import computing_in
from graft.backbones.room import parts
from graft.backbones.structures import rebuild
from graft.backbones.trunk import BackboneConfig, Trunk, read_config
from graft.errors import GraftError
from graft.files import remove, write_json


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
            batch_size: Images at a time; fewer where memory does not suffice.

        Returns:
            float32 (N, C); every row sums to 1.
        """
        found = torch.empty(len(pixels), len(self.classes))

        def predict(part: slice) -> None:
            for x in batches(pixels[part], self.config.preprocessing, batch_size, self.device):
                found[part] = self(x).float().softmax(1)

        with evaluating(self):
            for _ in parts(len(pixels), batch_size, predict):
                pass
        return found.numpy()

    def predictor(self, images: int, batch_size: int = 128) -> Callable[[Tensor], np.ndarray]:
        """What answers as `predict_pixels` does within rounding, faster for many images in sets.

        Args:
            images: How many there will be in all; the weights must stay as they are until then.
            batch_size: As of `predict_pixels`.
        """
        features_of = extractor(self.trunk, self.config, batch_size, engine="auto", images=images)

        def predict(pixels: Tensor) -> np.ndarray:
            with computing_in("float32"):
                features = features_of(pixels, "predictions")
            with torch.inference_mode(), evaluating(self.head):
                logits: Tensor = self.head(features.to(self.device))
                return logits.float().softmax(1).cpu().numpy()

        return predict

    def predict(self, images: Sequence[ImageLike] | np.ndarray) -> np.ndarray:
        """Class probabilities of encoded images (bytes), files, PIL images or uint8 arrays (H, W[, 3]).

        Returns:
            float32 (N, C); every row sums to 1.

        Raises:
            GraftError: one of them is not an image; it is named.
        """
        return self.predict_pixels(stack_pixels(images, self.config.preprocessing))

    def features_pixels(self, pixels: Tensor, batch_size: int = 128) -> Tensor:
        """The trunk's features, computed in float32: uint8 (N, 3, R, R) -> float32 (N, F), on the CPU."""
        with computing_in("float32"):
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
            "leave this candidate out; graft.backbones.descriptions.skipped() tells",
        )
    config = read_config(values["backbone"], folder / "model.json")
    state = tensors.load(folder / "weights.safetensors", sha256=values["weights_sha256"])
    head = make_head(values["head"], len(values["classes"]))
    model = Classifier(rebuild(config), head, config=config, classes=values["classes"])
    tensors.fill(model, state, what=f"{folder} ({config.name})")
    return model.eval()
