"""What a classifier costs to keep and to ask."""

from __future__ import annotations

import time
from collections.abc import Sequence

from torch import nn

from graft.backbones.classifier import Classifier


def parameters(model: nn.Module) -> int:
    """Number of weights."""
    return sum(weights.numel() for weights in model.parameters())


def mebibytes(model: nn.Module) -> float:
    """Weights and buffers as stored, MiB."""
    return sum(t.numel() * t.element_size() for t in model.state_dict().values()) / 2**20


def latency(
    models: Sequence[Classifier], image: bytes, *, rounds: int = 15, limit: float = 10.0
) -> list[float]:
    """Shortest time of `predict` on one encoded image, ms, one per model, after two rounds that warm up.

    The shortest, since what else the machine does only adds, and must not decide which model is promoted.
    The models take turns. No round is started after `limit` seconds, once three are timed.
    """
    taken: list[list[float]] = []
    start = time.perf_counter()
    while len(taken) < rounds + 2 and (len(taken) < 5 or time.perf_counter() - start < limit):
        taken.append([_seconds(model, image) for model in models])
    return [1000 * min(times) for times in zip(*taken[2:], strict=True)]


def _seconds(model: Classifier, image: bytes) -> float:
    before = time.perf_counter()
    model.predict([image])
    return time.perf_counter() - before
