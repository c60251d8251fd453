"""Colour jitter of a batch, each image by its own factors and in its own order."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

LUMA = (0.2989, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601)
NEUTRAL = (1.0, 1.0, 1.0, 0.0)


def jitter(images: Tensor, factors: Tensor, order: Tensor) -> Tensor:
    """Adjust brightness, contrast, saturation and hue as torchvision's v2 ColorJitter does.

    Args:
        images: float (N, 3, H, W) in [0, 255]; overwritten.
        factors: float (N, 4): what brightness, contrast and saturation are multiplied by, and the share
            of the colour circle, -0.5 to 0.5, that the hue turns.
        order: int (N, 4), each row a permutation of 0 .. 3: which of the four comes first, second ...

    Returns:
        `images`.
    """
    neutral = torch.tensor(NEUTRAL, dtype=factors.dtype)
    active = [kind for kind in range(4) if bool((factors[:, kind] != neutral[kind]).any())]
    if len(active) == 1:  # no order to keep
        return ADJUSTMENTS[active[0]](images, _column(factors[:, active[0]], images))
    for turn in order.T:
        for kind in active:
            chosen = (turn == kind).nonzero()[:, 0]
            if len(chosen):
                _adjust(images, chosen, kind, factors[chosen, kind])
    return images


def _adjust(images: Tensor, chosen: Tensor, kind: int, factors: Tensor) -> None:
    if len(chosen) == len(images):
        ADJUSTMENTS[kind](images, _column(factors, images))
    else:
        chosen = chosen.to(images.device)
        images[chosen] = ADJUSTMENTS[kind](images[chosen], _column(factors, images))


def _column(factors: Tensor, images: Tensor) -> Tensor:
    return factors.to(images.device, images.dtype).view(-1, 1, 1, 1)


def _brightness(images: Tensor, factor: Tensor) -> Tensor:
    return images.mul_(factor).clamp_(0, 255)


def _contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Away from, or towards, the image's mean grey."""
    mean = _grey(images.mean(dim=(2, 3), keepdim=True))
    return images.mul_(factor).add_(mean.mul_(1 - factor)).clamp_(0, 255)


def _saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Away from, or towards, each pixel's own grey."""
    grey = _grey(images)
    return images.mul_(factor).add_(grey.mul_(1 - factor)).clamp_(0, 255)


def _grey(images: Tensor) -> Tensor:
    red, green, blue = images.split(1, dim=1)
    return (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def _hue(images: Tensor, turn: Tensor) -> Tensor:
    """Turn the hue in HSV space; value (the largest channel) and chroma (largest less smallest) stay.

    With the hue in sixths of the circle, a channel is smallest + chroma x a trapezium of the hue, which
    spares the six cases of the textbook's way back to RGB.
    """
    red, green, blue = images.split(1, dim=1)
    largest = torch.maximum(red, green).maximum(blue)
    smallest = torch.minimum(red, green).minimum(blue)
    chroma = largest - smallest
    # Which third of the circle, by the largest channel: 0, 2 or 4, plus -1 to 1 by the other two.
    position = torch.where(
        largest == red,
        green - blue,
        torch.where(
            largest == green,
            (blue - red).add_(chroma, alpha=2),
            (red - green).add_(chroma, alpha=4),
        ),
    )
    sixths = position.div_(chroma.clamp_min(1e-6)).add_(6 * turn)
    sixths -= (sixths / 6).floor_().mul_(6)
    for channel, centre, sign in ((red, 3, 1), (green, 2, -1), (blue, 4, -1)):
        trapezium = (sixths - centre).abs_().mul_(sign).sub_(sign * 1.5 - 0.5).clamp_(0, 1)
        channel.copy_(trapezium.mul_(chroma).add_(smallest))
    return images


ADJUSTMENTS: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (_brightness, _contrast, _saturation, _hue)
