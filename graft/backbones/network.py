"""A network as an architecture's library makes it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from graft.errors import GraftError
from graft.images.preprocessing import Preprocessing

IMAGENET_CLASSES = 1000


@dataclass(frozen=True)
class Network:
    """A network without its head, or the whole one.

    Attributes:
        module: Normalised images (N, 3, S, S) to features; of the whole network to logits (N, 1000).
        head: Names of what was left out (head and helpers); their tensors in a weights file are not
            wanted.
        num_features: F.
        preprocessing: What the provider's default weights expect.
        provider: "graft", "torchvision" or "timm".
    """

    module: nn.Module
    head: tuple[str, ...]
    num_features: int
    preprocessing: Preprocessing
    provider: str


def no_head(name: str, reason: str) -> GraftError:
    """The error of who asks a network for ImageNet's classes that does not tell them."""
    return GraftError(
        f"{name} has no head for ImageNet's {IMAGENET_CLASSES} classes: {reason}",
        "name a torchvision classifier, or a model of timm with weights of ImageNet-1k (..._in1k)",
    )
