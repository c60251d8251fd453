"""Small networks for small images: 28 or 32 pixels, trained in minutes on a laptop's processor."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from graft.images.preprocessing import Preprocessing

CIFAR = Preprocessing(input_size=32, resize_size=32)
DIGITS = Preprocessing(input_size=32, resize_size=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
MNIST = DIGITS.at(28)


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut without weights (option A of He et al. 2015, section 3.3)."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride = stride
        self.added = channels - channels_in

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return functional.relu(out + self._shortcut(x))

    def _shortcut(self, x: Tensor) -> Tensor:
        if not self.added:
            return x
        before = self.added // 2
        # Every second pixel, and channels of zeros on both sides, as the published weights expect.
        thinned = x[:, :, :: self.stride, :: self.stride]
        return functional.pad(thinned, (0, 0, 0, 0, before, self.added - before))


class CifarResNet(nn.Module):
    """ResNet for CIFAR, He et al. 2015, section 4.2: 3 groups of n blocks, 6n + 2 layers.

    Args:
        blocks: n.

    Shape:
        (N, 3, 32, 32) -> (N, 64)
    """

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._group(16, 16, blocks, stride=1)
        self.layer2 = self._group(16, 32, blocks, stride=2)
        self.layer3 = self._group(32, 64, blocks, stride=2)
        _initialise(self)

    @staticmethod
    def _group(channels_in: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
        first = BasicBlock(channels_in, channels, stride)
        return nn.Sequential(first, *(BasicBlock(channels, channels, 1) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        return self.layer3(self.layer2(self.layer1(x))).mean((2, 3))


class DigitsCnn(nn.Module):
    """Three convolution blocks and one dense layer, after the digit networks of Ganin & Lempitsky 2015.

    Shape:
        (N, 3, 32, 32) -> (N, 128)
    """

    def __init__(self) -> None:
        super().__init__()
        self.block1 = _block(3, 32, kernel=5, stride=2)
        self.block2 = _block(32, 64, kernel=3, stride=1)
        self.block3 = _block(64, 128, kernel=3, stride=1)
        self.dense = nn.Sequential(nn.Linear(128 * 4 * 4, 128, bias=False), nn.BatchNorm1d(128), nn.ReLU())
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(self.block1(x), 2)
        x = functional.max_pool2d(self.block3(self.block2(x)), 2)
        features: Tensor = self.dense(torch.flatten(x, 1))
        return features


class DannCnn(nn.Module):
    """The MNIST network of Ganin & Lempitsky 2015, figure 4a, without its last layer; no normalisation.

    The two dense layers of its label predictor are in here, because a head is one layer. The paper's
    adversary judges the 768 features before them: `domain_adaptation.layer: flatten`.

    Shape:
        (N, 3, 28, 28) -> (N, 100)
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 5)
        self.conv2 = nn.Conv2d(32, 48, 5)
        self.flatten = nn.Flatten()
        self.dense1 = nn.Linear(48 * 4 * 4, 100)
        self.dense2 = nn.Linear(100, 100)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(functional.relu(self.conv1(x)), 2)
        x = functional.max_pool2d(functional.relu(self.conv2(x)), 2)
        x = functional.relu(self.dense1(self.flatten(x)))
        return functional.relu(self.dense2(x))


def _block(channels_in: int, channels: int, *, kernel: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels_in, channels, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.ReLU())


def _initialise(network: nn.Module) -> None:
    """Normal with variance 2 / fan-in, He et al. 2015 (Delving Deep into Rectifiers)."""
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight)
