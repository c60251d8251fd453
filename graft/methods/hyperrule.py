"""How long and how fast to train, from the size and the number of images alone.

After the HyperRule of Big Transfer (Kolesnikov et al. 2020), which replaces the search for
hyperparameters by a rule, scaled to what a network of a few million parameters needs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from graft.params import FineTuning

SMALL = 96  # pixels: below, networks are small and trained on like images, and an epoch is cheap
FEW = 1000  # images below which a running average of BatchNorm's statistics is too noisy to serve
WARM = 3  # how many times shorter training is that goes on from the champion
MANY = 20_000  # images from which mixup regularises more than it blurs


@dataclass(frozen=True)
class Plan:
    """Every number that `auto` left open.

    Attributes:
        epochs: Of the main phase.
        head_epochs: Of the head alone before it, where the method has such a phase.
        batch_size: Images a step.
        learning_rate: Peak rate of layers that know something already.
        stored: Whether pretrained BatchNorm layers keep their statistics.
        mixup: alpha of mixup where augmentation leaves it open.
    """

    epochs: int
    head_epochs: int
    batch_size: int
    learning_rate: float
    stored: bool
    mixup: float


def plan(params: FineTuning, *, input_size: int, images: int) -> Plan:
    """What the user set, and the rule's choice where nothing is set.

    Fewer images are shown more often, but not in proportion: epochs ~ 1 / sqrt(images).

    Args:
        params: The section; `auto` is None here.
        input_size: Side of the images the network sees, pixels.
        images: Labelled training images, N > 0.
    """
    small, warm = input_size < SMALL, params.init == "champion"
    epochs = _between(3, (400 if small else 140) / math.sqrt(images), 40)
    epochs = math.ceil(epochs / WARM) if warm else epochs
    return Plan(
        epochs=epochs if params.epochs is None else params.epochs,
        head_epochs=_head_epochs(epochs, warm) if params.head_epochs is None else params.head_epochs,
        batch_size=(64 if small else 32) if params.batch_size is None else params.batch_size,
        learning_rate=(1e-3 if small else 5e-5) if params.learning_rate is None else params.learning_rate,
        stored=not small and images < FEW if params.statistics is None else params.statistics == "stored",
        mixup=0.1 if images >= MANY else 0.0,
    )


def _head_epochs(epochs: int, warm: bool) -> int:
    return 0 if warm else max(1, epochs // 4)  # a champion has its head


def _between(lowest: int, value: float, highest: int) -> int:
    return max(lowest, min(highest, round(value)))
