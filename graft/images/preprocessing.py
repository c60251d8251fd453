"""What a network expects of its input; it travels with the network's weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Preprocessing:
    """Resize the short side, crop the centre, scale to [0, 1], subtract the mean, divide by std.

    Attributes:
        input_size: Side of the square the network sees, pixels.
        resize_size: Length the image's short side is resized to first, pixels (>= input_size).
        mean, std: Per channel (RGB), of values in [0, 1].
        interpolation: "bilinear" or "bicubic".
    """

    input_size: int
    resize_size: int
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    interpolation: str = "bilinear"

    def to_dict(self) -> dict[str, Any]:
        """As JSON stores it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preprocessing:
        """The inverse of `to_dict`."""
        return cls(**{**values, "mean": tuple(values["mean"]), "std": tuple(values["std"])})

    def at(self, input_size: int) -> Preprocessing:
        """The same at another input size, with the same share of the image in the crop."""
        resized = round(self.resize_size * input_size / self.input_size)
        return replace(self, input_size=input_size, resize_size=resized)

    def centre(self, pixels: Tensor) -> Tensor:
        """Crop the centre: (N, 3, R, R) -> (N, 3, S, S)."""
        side, size = pixels.shape[-1], self.input_size
        start = round((side - size) / 2)
        return pixels[..., start : start + size, start : start + size]

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 (N, 3, S, S) -> float32 of mean 0 and deviation 1, on the same device."""
        mean = torch.tensor(self.mean, device=pixels.device).view(1, 3, 1, 1)
        std = torch.tensor(self.std, device=pixels.device).view(1, 3, 1, 1)
        return (pixels.float() / 255 - mean) / std
