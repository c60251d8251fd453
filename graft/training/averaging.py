"""The average of the weights over the course of training, which is better than the last of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class WeightAverage:
    """Exponential moving average a <- d a + (1 - d) w of the trainable weights w after every step.

    Averaging iterates goes back to Polyak & Juditsky (1992); the exponential form and its use as the
    better model to Tarvainen & Valpola (2017). At step t from 0, d = min(decay, (1 + t) / (10 + t)), so
    that the first weights are soon forgotten. Only weights are averaged: BatchNorm's running statistics
    are an average already, and stay those of the model in training.

    Args:
        model: Its weights now are where the average starts.
        decay: In [0, 1); 0 keeps no average, and then everything here does nothing.

    Raises:
        ValueError: the decay lies outside [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"the decay of the weights' average is {decay}, not in [0, 1)")
        self.decay = decay
        self.steps = 0
        learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._weights = learning if decay else {}
        self._averages = {name: p.detach().clone() for name, p in self._weights.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after one more step."""
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        for name, average in self._averages.items():
            average.lerp_(self._weights[name], 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within, the model has the average as its weights; after, bit for bit its own again."""
        own = {name: weight.detach().clone() for name, weight in self._weights.items()}
        self._assign(self._averages)
        try:
            yield
        finally:
            self._assign(own)

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint: tensors and plain values."""
        return {"steps": self.steps, "averages": self._averages}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.steps = state["steps"]
        for name, average in self._averages.items():
            average.copy_(state["averages"][name])

    @torch.no_grad()
    def _assign(self, tensors: dict[str, torch.Tensor]) -> None:
        for name, weight in self._weights.items():
            weight.copy_(tensors[name])
