"""Source images in the target's style: FDA, Fourier domain adaptation (Yang & Soatto 2020)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from graft.training.batches import Batches


def in_style(images: Tensor, styles: Tensor, band: float) -> Tensor:
    """Images whose coarse structure has the strengths it has in others, and whose edges are their own.

    x' = F^-1(M |F(y)| + (1 - M) |F(x)|, angle F(x)), F the Fourier transform of each channel and M the
    square of the lowest frequencies (equations 3 and 4 of the paper): the amplitudes there hold colour,
    contrast and texture, the phases hold the shapes.

    Args:
        images: x, float (N, 3, S, S).
        styles: y, of the same shape; image i gets the style of y_i.
        band: beta, half the side of M as a share of the image's; 0 changes nothing but the brightness
            of each channel, 0.5 takes all amplitudes.

    Returns:
        x' (N, 3, S, S), with values that may lie outside of the range of x.
    """
    size = images.shape[-1]
    spectrum, style = torch.fft.rfft2(images.float()), torch.fft.rfft2(styles.float())
    # In double precision, as the band is: in single, one just below a frequency would be equal to it.
    vertical = torch.fft.fftfreq(size, dtype=torch.float64).abs()
    horizontal = torch.fft.rfftfreq(size, dtype=torch.float64)
    low = ((vertical[:, None] <= band) & (horizontal <= band)).to(images.device)
    amplitude = torch.where(low, style.abs(), spectrum.abs())
    return torch.fft.irfft2(torch.polar(amplitude, spectrum.angle()), s=(size, size)).to(images.dtype)


@dataclass(frozen=True)
class Restyled:
    """A stream of source batches, each image in the style of a target image.

    Attributes:
        source: Its images and labels.
        target: Gives as many images a step.
        band: See `in_style`.
    """

    source: Batches
    target: Batches
    band: float

    @property
    def share(self) -> int:
        """How many images a call gives."""
        return self.source.share

    @property
    def per_epoch(self) -> int:
        """Steps that show each image about once."""
        return self.source.per_epoch

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Step i's images, float (B, 3, S, S), and label probabilities (B, C)."""
        inputs, labels = self.source(step)
        styles, _ = self.target(step)
        made = in_style(inputs, styles, self.band)
        return made.contiguous(memory_format=torch.channels_last), labels
