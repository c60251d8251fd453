"""The side at which a network sees the images."""

from __future__ import annotations

from dataclasses import replace

import torch

from graft.backbones.features import evaluating
from graft.backbones.trunk import BackboneConfig, Trunk
from graft.errors import GraftError

SMALL = 96  # pixels; below, enlarging to 224 adds cost and no detail (Kolesnikov et al. 2020)
REDUCED = 128


def at_resolution(
    trunk: Trunk, config: BackboneConfig, *, input_size: int | None, short_side: float
) -> BackboneConfig:
    """The config with the input size set by the user, or by the HyperRule's choice of resolution.

    Args:
        trunk: Tried with one black image where the size changes.
        config: With the size its weights were trained at.
        input_size: Pixels; None leaves it to the rule: 128 where the images' short side is below 96 and
            the network can; else what the weights expect.
        short_side: Median over the images, pixels.

    Raises:
        GraftError: the network cannot see images of the size that the user set.
    """
    expected = config.preprocessing.input_size
    side = input_size or (REDUCED if short_side < SMALL and expected > REDUCED else expected)
    if side == expected:
        return config
    problem = _refusal(trunk, side)
    if problem is None:
        return replace(config, preprocessing=config.preprocessing.at(side))
    if input_size is None:
        return config
    raise GraftError(
        f"backbone.input_size is {side}, and {config.name} cannot see images of {side} pixels: {problem}",
        f"leave it auto, which is {expected} here, or name a convolutional backbone",
    )


@torch.inference_mode()
def _refusal(trunk: Trunk, side: int) -> str | None:
    try:
        with evaluating(trunk):
            trunk(torch.zeros(1, 3, side, side))
    except (RuntimeError, AssertionError, ValueError) as error:
        return str(error).strip().splitlines()[0][:200]
    return None
