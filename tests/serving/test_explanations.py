"""Class-activation maps: they show the region that is known to decide, and say where there is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result
from PIL import Image
from torch import nn

from graft.backbones.classifier import Classifier, save_classifier
from graft.backbones.explanations import activation_maps, explain, last_map, overlay
from graft.backbones.trunk import build
from graft.errors import GraftError

SIDE = 32


@pytest.fixture(scope="module")
def bright_or_dark() -> Classifier:
    """digits_cnn by hand: "bright" is the sum of white over mid-grey, "dark" of black below it.

    Channel 0 of every block passes brightness on, channel 1 darkness; the rest is silent. So each
    place of the map says how bright or dark the image is there, and each class sums over one channel.
    """
    trunk, config = build("digits_cnn")
    network = trunk.network
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        first, *later = [network.block1, network.block2, network.block3]
        first[0].weight[0, :, 2, 2], first[0].weight[1, :, 2, 2] = 1 / 3, -1 / 3
        for block in later:
            block[0].weight[0, 0, 1, 1] = block[0].weight[1, 1, 1, 1] = 1
        dense = network.dense[0].weight.view(128, 128, 4, 4)
        dense[0, 0], dense[1, 1] = 1, 1
        for module in network.modules():
            if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm1d)):
                module.weight.fill_(1)
    head = nn.Linear(config.num_features, 2, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.eye(2, config.num_features))
    return Classifier(trunk, head, config=config, classes=("bright", "dark")).eval()


def scene(*, bright: tuple[int, int], dark: tuple[int, int]) -> torch.Tensor:
    """Mid-grey with a large white square and a small black one, at these places."""
    image = torch.full((1, 3, SIDE, SIDE), 128, dtype=torch.uint8)
    (y, x), (v, u) = bright, dark
    image[..., y : y + 10, x : x + 10] = 255
    image[..., v : v + 7, u : u + 7] = 0
    return image


def centre_of(activation: np.ndarray) -> np.ndarray:
    places = np.indices(activation.shape)
    return (places * activation).sum((1, 2)) / activation.sum()


@pytest.mark.parametrize("corner", [(2, 2), (2, 20), (20, 2), (20, 20)])
def test_the_map_lies_where_the_answer_comes_from(
    bright_or_dark: Classifier, corner: tuple[int, int]
) -> None:
    opposite = (22 - corner[0], 22 - corner[1])
    pixels = scene(bright=corner, dark=opposite)
    (bright,) = activation_maps(bright_or_dark, pixels)  # the most probable class
    (dark,) = activation_maps(bright_or_dark, pixels, np.array([1]))
    np.testing.assert_allclose(centre_of(bright), np.add(corner, 4.5), atol=2)
    np.testing.assert_allclose(centre_of(dark), np.add(opposite, 3), atol=2)
    for each in (bright, dark):
        assert (each.shape, each.dtype, each.max()) == ((SIDE, SIDE), np.float32, 1)
        assert each.min() >= 0


def test_each_image_has_its_own_map_whatever_the_batch(bright_or_dark: Classifier) -> None:
    corners = [(2, 2), (20, 2), (20, 20), (2, 20), (11, 11)]
    pixels = torch.cat([scene(bright=each, dark=(0, 12)) for each in corners])
    maps = activation_maps(bright_or_dark, pixels, batch_size=2)
    for corner, each in zip(corners, maps, strict=True):
        np.testing.assert_allclose(centre_of(each), np.add(corner, 4.5), atol=2)


def test_the_overlay_changes_the_image_there_only(bright_or_dark: Classifier) -> None:
    image = scene(bright=(2, 2), dark=(20, 20))[0].permute(1, 2, 0).numpy()
    (shown,) = explain(bright_or_dark, [image])
    changed = np.abs(shown.astype(int) - image).max(2) > 10
    assert (shown.shape, shown.dtype) == ((SIDE, SIDE, 3), np.uint8)
    assert changed[3:9, 3:9].all()
    assert not changed[16:, 16:].any()
    (other,) = explain(bright_or_dark, [image], labels=["dark"])
    assert np.abs(other[22:25, 22:25].astype(int) - image[22:25, 22:25]).max() > 10
    with pytest.raises(GraftError, match=r"'grey' is no class.*\n.*bright, dark"):
        explain(bright_or_dark, [image], labels=["grey"])


def test_nothing_speaks_for_a_plain_image(bright_or_dark: Classifier) -> None:
    plain = np.full((SIDE, SIDE, 3), 127, np.uint8)  # a little dark everywhere
    assert np.array_equal(overlay(plain, np.zeros((SIDE, SIDE))), plain)
    assert not activation_maps(
        bright_or_dark, torch.full((1, 3, SIDE, SIDE), 100).byte(), np.array([0])
    ).any()


def test_the_model_is_left_as_it_was(bright_or_dark: Classifier) -> None:
    model = bright_or_dark.train()
    for parameter in model.parameters():
        parameter.requires_grad_(False)  # frozen, as a probe's trunk is
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert activation_maps(model, scene(bright=(2, 2), dark=(20, 20))).any()
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    model.eval()


@pytest.mark.parametrize(
    ("backbone", "layer"),
    [("digits_cnn", "block3.2"), ("resnet20", "layer3.2"), ("resnet18", "layer4.1"),
     ("mobilenet_v2", "features.18"), ("squeezenet1_1", "classifier.2")],
)  # fmt: skip
def test_the_last_feature_map(backbone: str, layer: str) -> None:
    trunk, config = build(backbone)
    model = Classifier(trunk, nn.Linear(config.num_features, 2), config=config, classes=("a", "b"))
    found = last_map(model)
    assert [name for name, module in trunk.network.named_modules() if module is found] == [layer]


@pytest.mark.parametrize("backbone", ["timm/vit_tiny_patch16_224", "timm/swin_tiny_patch4_window7_224"])
def test_a_network_on_tokens_is_refused(backbone: str) -> None:
    trunk, config = build(backbone)
    model = Classifier(trunk, nn.Linear(config.num_features, 2), config=config, classes=("a", "b"))
    with pytest.raises(GraftError, match=r"need a feature map .*\n.*leave out --explain, or .*resnet18"):
        last_map(model)


def test_predict_writes_one_picture_per_answer(
    graft_command: Callable[..., Result], bright_or_dark: Classifier, pictures: Path, tmp_path: Path
) -> None:
    save_classifier(bright_or_dark, tmp_path / "model", method="probe")
    names = ["a.png", "broken.jpg", "deep/f.png", "c.bmp"]
    images = [pictures / name for name in names]
    done = graft_command(
        "predict", tmp_path / "model", *images, "--explain", tmp_path / "e", "--batch-size", "2"
    )
    assert done.exit_code == 0
    written = sorted((tmp_path / "e").iterdir())
    assert [path.name for path in written] == ["000001-a.png", "000003-f.png", "000004-c.png"]
    sheet = np.asarray(Image.open(written[0]).convert("RGB"))
    assert sheet.shape == (284, 516, 3)
    assert (sheet[:28] == 0).any(), "no title"
    left, right = sheet[28:, :256].astype(int), sheet[28:, 260:].astype(int)
    assert np.abs(left - right).max() > 30
