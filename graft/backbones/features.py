"""A frozen network over many images: features out, nothing in the network changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from graft.images.preprocessing import Preprocessing
from graft.progress import track

if TYPE_CHECKING:
    from graft.backbones.trunk import BackboneConfig, Trunk


def extract(
    trunk: Trunk, config: BackboneConfig, pixels: Tensor, batch_size: int, what: str = "features"
) -> Tensor:
    """Pooled features of images, in eval mode; no parameter, buffer or training flag changes.

    Args:
        trunk: The network; its device does the work.
        config: Tells how the images are prepared.
        pixels: uint8 (N, 3, R, R), R = the config's resize_size.
        batch_size: Images at a time.
        what: The work, as the progress line calls it.

    Returns:
        float32 (N, F), on the CPU.
    """
    device = next(trunk.parameters()).device
    features = torch.empty(len(pixels), config.num_features)  # outside inference mode: heads train on it
    inputs = batches(pixels, config.preprocessing, batch_size, device)
    done = 0
    with torch.inference_mode(), evaluating(trunk):
        for x in track(inputs, what, total=-(-len(pixels) // batch_size), unit="batches"):
            features[done : done + len(x)] = trunk(x).float().cpu()
            done += len(x)
    return features


def batches(
    pixels: Tensor, preprocessing: Preprocessing, batch_size: int, device: torch.device
) -> Iterator[Tensor]:
    """Cropped, normalised batches on a device, channels last: what a network takes in evaluation.

    Args:
        pixels: uint8 (N, 3, R, R).
        preprocessing: Crop, mean and deviation.
        batch_size: Images at a time; the last batch may be smaller.
        device: Where the batches go.

    Yields:
        float32 (B, 3, S, S).
    """
    size = preprocessing.resize_size
    if pixels.dtype != torch.uint8 or tuple(pixels.shape[1:]) != (3, size, size):
        given = f"{pixels.dtype} {tuple(pixels.shape)}"
        raise ValueError(f"pixels are {given}, expected uint8 (N, 3, {size}, {size})")
    for batch in pixels.split(batch_size) if len(pixels) else ():
        x = preprocessing.normalise(preprocessing.centre(batch.to(device)))
        yield x.contiguous(memory_format=torch.channels_last)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every submodule is in the mode it was in."""
    modes = [(each, each.training) for each in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for each, mode in modes:
            each.training = mode
