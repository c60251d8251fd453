"""BatchNorm's running statistics in layers that start from random weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def unbiased_statistics(fresh: Iterable[nn.Module]) -> Iterator[None]:
    """Within, fresh layers forget the mean 0 and the variance 1 that they were made with.

    A running average with the usual momentum of 0.1 still holds 8 % of where it started after 24 steps,
    and a variance of 1 where the true one is a hundredth: such a network, trained on a few dozen
    batches, is right in training and guesses in evaluation. Step t (from 1) therefore counts
    max(momentum, 1 / t), which is the mean of all batches first and the usual average later.

    Args:
        fresh: Parts whose BatchNorm layers count their batches from 0. What is pretrained does not
            belong here, as its first batch would replace what its statistics know.
    """
    layers = {
        layer: layer.momentum
        for part in fresh
        for layer in part.modules()
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.momentum is not None
    }

    def weigh(layer: nn.Module, _inputs: object) -> None:
        assert isinstance(layer, nn.modules.batchnorm._BatchNorm)
        seen = layer.num_batches_tracked
        usual = layers[layer]
        if layer.training and seen is not None and usual is not None:
            layer.momentum = max(usual, 1 / (int(seen) + 1))

    handles = [layer.register_forward_pre_hook(weigh) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for layer, momentum in layers.items():
            layer.momentum = momentum
