"""New blocks on top of a pretrained trunk: residual ones, and inception ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions around a shortcut (He et al. 2016), projected where channels change.

    Shape:
        (N, A, H, W) -> (N, width, H, W)
    """

    def __init__(self, channels_in: int, width: int) -> None:
        super().__init__()
        self.first = _convolution(channels_in, width, 3)
        self.second = _convolution(width, width, 3, activation=False)
        changes = channels_in != width
        self.shortcut = _convolution(channels_in, width, 1, activation=False) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.second(self.first(x)) + self.shortcut(x))


class InceptionBlock(nn.Module):
    """Convolutions of three sizes and a pooling side by side (Szegedy et al. 2015), with BatchNorm.

    The widths stand to each other as in GoogLeNet's first block, 3a: 2 : 4 : 1 : 1.

    Shape:
        (N, A, H, W) -> (N, width, H, W), width >= 8
    """

    def __init__(self, channels_in: int, width: int) -> None:
        super().__init__()
        eighth = width // 8
        large = width - 4 * eighth  # of 3 x 3: half, and what does not divide by 8
        self.one = _convolution(channels_in, 2 * eighth, 1)
        self.three = nn.Sequential(
            _convolution(channels_in, 3 * eighth, 1), _convolution(3 * eighth, large, 3)
        )
        self.five = nn.Sequential(_convolution(channels_in, eighth, 1), _convolution(eighth, eighth, 5))
        self.pooled = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1), _convolution(channels_in, eighth, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pooled(x)], 1)


BLOCKS: dict[str, type[ResidualBlock | InceptionBlock]] = {
    "residual": ResidualBlock,
    "inception": InceptionBlock,
}


def new_blocks(kind: str, channels_in: int, width: int, count: int, seed: int) -> nn.Sequential:
    """Blocks with random weights that depend on the seed only.

    Args:
        kind: A key of BLOCKS.
        channels_in: A, channels of the map they stand on.
        width: Channels of each block's output.
        count: How many.
        seed: Of the weights; the global random state is left as it was.
    """
    widths = [channels_in] + [width] * (count - 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        blocks = nn.Sequential(*(BLOCKS[kind](each, width) for each in widths))
        for module in blocks.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)  # He et al. 2015 (Delving Deep into Rectifiers)
    return blocks


def _convolution(channels_in: int, channels: int, kernel: int, *, activation: bool = True) -> nn.Sequential:
    convolution = nn.Conv2d(channels_in, channels, kernel, padding=kernel // 2, bias=False)
    after = [nn.ReLU()] if activation else []
    return nn.Sequential(convolution, nn.BatchNorm2d(channels), *after)
