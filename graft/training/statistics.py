"""BatchNorm's running statistics: in layers that start from random weights, and of other images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from graft.backbones.features import batches, evaluating
from graft.backbones.hooks import hooked
from graft.images.preprocessing import Preprocessing
from graft.progress import track


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

    try:
        with hooked(layer.register_forward_pre_hook(weigh) for layer in layers):
            yield
    finally:
        for layer, momentum in layers.items():
            layer.momentum = momentum


def batch_norms(module: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """The BatchNorm layers that keep statistics of what they have seen."""
    return [
        layer
        for layer in module.modules()
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.running_mean is not None
    ]


@torch.no_grad()
def target_statistics(
    trunk: nn.Module, pixels: Tensor, preprocessing: Preprocessing, *, batch_size: int, seed: int
) -> None:
    """Replace BatchNorm's mean and variance by those of these images, in one pass (Li et al. 2017).

    Every value that reaches a layer counts the same, whatever the batches: the layer gets the mean and
    the unbiased variance of its inputs over the whole set. In the pass BatchNorm normalises by batch
    and all else is in eval mode. Nothing but the running means and variances changes.

    Args:
        trunk: Its device does the work. A layer that evaluation never reaches keeps its statistics.
        pixels: uint8 (N, 3, R, R), N > 1.
        preprocessing: How the images are prepared.
        batch_size: Images at a time, at least; fewer than twice as many at most.
        seed: Of the order: a batch of one class alone would be normalised by that class.
    """
    count = len(pixels)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(count))
    device = next(trunk.parameters()).device
    chunks = order.tensor_split(max(1, count // max(2, batch_size)))
    with evaluating(trunk), _observed(batch_norms(trunk)) as found:
        for chunk in track(chunks, "BatchNorm statistics", total=len(chunks), unit="batches"):
            for x in batches(pixels[chunk], preprocessing, len(chunk), device):
                trunk(x)
    for layer, moments in found.items():
        assert layer.running_mean is not None
        assert layer.running_var is not None
        layer.running_mean.copy_(moments.mean)
        layer.running_var.copy_(moments.squares / max(1, moments.values - 1))


class _Moments(NamedTuple):
    """Of a layer's inputs so far: values per channel, their mean (C,), summed squares about it (C,)."""

    values: int
    mean: Tensor
    squares: Tensor

    def and_those_of(self, inputs: Tensor) -> _Moments:
        """With (B, C, ...) more: the pairwise update of Chan et al. 1979."""
        axes = [axis for axis in range(inputs.ndim) if axis != 1]
        variance, mean = torch.var_mean(inputs.float(), axes, correction=0)
        more = inputs.numel() // inputs.shape[1]
        total, apart = self.values + more, mean.double() - self.mean
        squares = self.squares + variance.double() * more + apart**2 * (self.values * more / total)
        return _Moments(total, self.mean + apart * (more / total), squares)


@contextmanager
def _observed(
    layers: Iterable[nn.modules.batchnorm._BatchNorm],
) -> Iterator[dict[nn.modules.batchnorm._BatchNorm, _Moments]]:
    """Within, layers normalise by batch, their buffers at rest, and what reaches them is measured."""
    found: dict[nn.modules.batchnorm._BatchNorm, _Moments] = {}

    def measure(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, nn.modules.batchnorm._BatchNorm)
        (x,) = inputs
        nothing = torch.zeros(layer.num_features, dtype=torch.float64, device=x.device)
        found[layer] = found.get(layer, _Moments(0, nothing, nothing)).and_those_of(x)

    before = [(layer, layer.training, layer.track_running_stats) for layer in layers]
    for layer, _, _ in before:
        layer.training, layer.track_running_stats = True, False
    try:
        with hooked(layer.register_forward_pre_hook(measure) for layer, _, _ in before):
            yield found
    finally:
        for layer, training, tracking in before:
            layer.training, layer.track_running_stats = training, tracking
