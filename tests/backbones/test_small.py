"""Our own networks: the published ResNet-20 fits, the digits network is small and fast."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from graft.backbones.small import BasicBlock, CifarResNet
from graft.backbones.trunk import build
from graft.backbones.weights import prepare
from graft.params import Backbone


def test_resnet20_has_the_paper_s_size() -> None:
    parameters = sum(p.numel() for p in CifarResNet(3).parameters())
    assert parameters + 64 * 10 + 10 == 269_722  # 0.27 M in table 6 of He et al. 2015


def test_the_shortcut_has_no_weights_and_keeps_the_channels_centred() -> None:
    block = BasicBlock(2, 4, 2)
    for parameter in (block.conv1.weight, block.conv2.weight):
        torch.nn.init.zeros_(parameter)
    x = torch.rand(1, 2, 4, 4)
    out = block.eval()(x)
    assert torch.equal(out[:, 1:3], x[:, :, ::2, ::2])
    assert not out[:, [0, 3]].any()


@pytest.mark.photos
def test_published_resnet20_weights_load(shared: Path) -> None:
    file = shared / "weights" / "resnet20-12fca82f.pth"
    trunk, config = prepare(Backbone(name="resnet20", weights=str(file), sha256="4715e618"))
    published = torch.load(file, weights_only=True)
    own = trunk.network.state_dict()
    assert published.keys() - own.keys() == {"linear.weight", "linear.bias"}
    assert all(torch.equal(own[name], value) for name, value in published.items() if name in own)
    assert config.preprocessing.mean == (0.485, 0.456, 0.406)
    assert (config.preprocessing.input_size, config.preprocessing.resize_size) == (32, 32)


def test_digits_cnn_is_small() -> None:
    trunk, config = build("digits_cnn")
    assert 2e5 <= sum(p.numel() for p in trunk.parameters()) <= 5e5
    assert config.preprocessing.mean == config.preprocessing.std == (0.5, 0.5, 0.5)


def test_dann_cnn_has_the_paper_s_layers() -> None:
    trunk, config = build("dann_cnn")
    parameters = [list(p.shape) for name, p in trunk.named_parameters() if name.endswith("weight")]
    assert parameters == [[32, 3, 5, 5], [48, 32, 5, 5], [100, 768], [100, 100]]
    assert config.preprocessing.input_size == config.preprocessing.resize_size == 28


@pytest.mark.parametrize("name", ["digits_cnn", "dann_cnn", "resnet20"])
def test_every_weight_learns(name: str) -> None:
    trunk, config = build(name)
    side = config.preprocessing.input_size
    trunk(torch.rand(8, 3, side, side)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trunk.parameters())
