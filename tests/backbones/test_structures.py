"""Trunks made from trunks: what they compute, how they are stored, and their stages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from graft.backbones.assembled import Combined, resizing
from graft.backbones.classifier import Classifier
from graft.backbones.explanations import activation_maps
from graft.backbones.structures import combined, hybrid, layered, plain, positions, rebuild
from graft.backbones.trunk import BackboneConfig, Trunk, build, load_backbone, save_backbone
from graft.errors import GraftError
from graft.images.preprocessing import Preprocessing
from graft.serving.exporting import export

SMALL = Preprocessing(input_size=32, resize_size=36)
Made = tuple[Trunk, BackboneConfig]


def squeezenet(side: int = 32) -> Made:
    return build("squeezenet1_1", preprocessing=Preprocessing(input_size=side, resize_size=side))


def changed(kind: str, drop: int = 6) -> Made:
    return hybrid(*squeezenet(), drop=drop, blocks=kind, count=2, width=20, seed=3)


MAKE: dict[str, Callable[[], Made]] = {
    "layers": lambda: layered(*build("resnet20"), ["layer1.2", "conv1", "layer3"]),
    "positions": lambda: positions(*build("digits_cnn")),
    "residual": lambda: changed("residual"),
    "inception": lambda: changed("inception"),
    "combined": lambda: combined([build("digits_cnn", seed=1), layered(*build("digits_cnn"), ["block2"])]),
}


@cache
def made(kind: str) -> Made:
    return MAKE[kind]()


def images(config: BackboneConfig, count: int = 3) -> torch.Tensor:
    side = config.preprocessing.input_size
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", MAKE)
def test_every_structure_round_trips(kind: str, tmp_path: Path) -> None:
    trunk, config = made(kind)
    x = images(config)
    save_backbone(trunk, config, tmp_path)
    loaded, read = load_backbone(tmp_path)
    with torch.inference_mode():
        features = trunk.eval()(x)
        assert torch.equal(loaded.eval()(x), features)
    assert features.shape == (3, config.num_features)
    assert loaded.num_features == config.num_features
    assert replace(read, sha256=None) == config


@pytest.mark.parametrize("kind", MAKE)
def test_stages_hold_everything_once(kind: str) -> None:
    trunk, _ = made(kind)
    for tensors in (nn.Module.parameters, nn.Module.buffers):
        inside = sorted(id(t) for _, stage in trunk.stages for t in tensors(stage))
        assert inside == sorted(id(t) for t in tensors(trunk))
    names = [name for name, _ in trunk.stages]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("kind", MAKE)
def test_rebuilding_is_random_by_seed_alone(kind: str) -> None:
    _, config = made(kind)
    first, second, other = (rebuild(config, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("kind", MAKE)
def test_every_structure_is_explained_or_says_why_not(kind: str) -> None:
    trunk, config = made(kind)
    model = Classifier(trunk, nn.Linear(config.num_features, 3), config=config, classes=("a", "b", "c"))
    side = config.preprocessing.resize_size
    pixels = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8)
    if kind == "combined":
        with pytest.raises(GraftError, match="each network has its own"):
            activation_maps(model, pixels)
    else:
        maps = activation_maps(model, pixels)
        assert maps.shape == (2, config.preprocessing.input_size, config.preprocessing.input_size)
        assert maps.max() > 0 or kind == "positions"


@pytest.mark.parametrize("kind", ["positions", "residual", "combined"])
def test_structures_can_be_exported(kind: str, tmp_path: Path) -> None:
    """As torch-export, which the other formats are made from."""
    trunk, config = made(kind)
    model = Classifier(trunk, nn.Linear(config.num_features, 3), config=config, classes=("a", "b", "c"))
    assert export(model, "torch-export", tmp_path / "e")["check"]["max_difference"] < 1e-4


@pytest.mark.heavy
@pytest.mark.parametrize("format_name", ["onnx", "openvino"])
@pytest.mark.parametrize("kind", MAKE)
def test_every_structure_in_other_formats(kind: str, format_name: str, tmp_path: Path) -> None:
    trunk, config = made(kind)
    model = Classifier(trunk, nn.Linear(config.num_features, 3), config=config, classes=("a", "b", "c"))
    assert export(model, format_name, tmp_path / "e")["check"]["max_difference"] < 1e-4


# --- inner layers


@torch.inference_mode()
def test_layers_are_what_hooks_see() -> None:
    trunk, config = build("resnet20", seed=2)
    seen: dict[str, torch.Tensor] = {}
    for name in ("bn1", "layer1.2", "layer3"):
        trunk.network.get_submodule(name).register_forward_hook(
            lambda _m, _i, output, name=name: seen.__setitem__(name, output.clone())
        )
    # The stage conv1 is the convolution with its normalisation.
    joined, described = layered(trunk, config, ["layer1.2", "conv1", "layer3"])
    features = joined.eval()(images(config))
    wanted = torch.cat([seen[name].mean((2, 3)) for name in ("layer1.2", "bn1", "layer3")], 1)
    assert torch.allclose(features, wanted, atol=1e-6)
    assert described.structure == {"kind": "layers", "layers": ["layer1.2", "bn1", "layer3"]}
    assert described.num_features == 16 + 16 + 64


@torch.inference_mode()
def test_an_activation_in_place_does_not_reach_what_was_noted() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1))
    config = BackboneConfig("made up", "graft", 4, SMALL, "random")
    x = images(config)
    _, described = layered(Trunk(network, num_features=4), config, ["1", "0"])
    assert described.structure is not None
    assert described.structure["layers"] == ["1", "2"]  # the stage 0 ends with its pooling
    joined, _ = positions(Trunk(network, num_features=4), config, "1")
    assert torch.allclose(joined(x), network[0](x).relu().permute(0, 2, 3, 1).flatten(1), atol=1e-6)


@torch.inference_mode()
def test_positions_follow_one_another() -> None:
    trunk, config = build("digits_cnn")
    flat, described = positions(trunk, config)
    assert described.structure == {"kind": "positions", "layer": "block3", "positions": 64}
    x = images(config)
    features = flat.eval()(x).reshape(3, 64, 128)
    network = trunk.network
    found = network.block3(network.block2(functional.max_pool2d(network.block1(x), 2)))
    assert torch.allclose(features[:, 8 + 3], found[:, :, 1, 3], atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "said"),
    [("layer9", "no layer 'layer9'"), ("conv1.weight", "no layer"), ("", "no layer ''")],
)
def test_an_unknown_layer_is_named_with_the_stages(layer: str, said: str) -> None:
    with pytest.raises(GraftError) as error:
        layered(*build("resnet20"), [layer])
    assert said in error.value.problem
    assert "the stages are conv1, layer1.0" in error.value.fix


def test_the_architecture_comes_back_out() -> None:
    trunk, config = build("resnet20", seed=4)
    x = images(config)
    with torch.inference_mode():
        wanted = trunk.eval()(x)
        again, described = plain(*layered(trunk, config, ["layer1"]))
        assert torch.equal(again(x), wanted)
    assert described == config
    with pytest.raises(GraftError, match="already made from another network"):
        positions(*layered(trunk, config, ["layer1"]))


# --- new blocks


def test_a_hybrid_keeps_the_first_stages_and_their_weights() -> None:
    trunk, config = squeezenet()
    original = trunk.network.features
    found, _ = hybrid(trunk, config, drop=6, blocks="residual", count=2, width=20, seed=3)
    kept = found.network.kept
    assert all(a is b for a, b in zip(kept, original, strict=False))
    left = [type(child).__name__ for child in original][len(kept) :]
    assert left.count("Fire") == 6
    assert [name for name, _ in found.stages][-2:] == ["new.0", "new.1"]
    assert found.network(images(config)).shape[1] == 20


def test_a_plain_network_is_cut_at_its_pooling() -> None:
    with torch.device("meta"):
        from torchvision.models import vgg11

        from graft.backbones.structures import _kept

        trunk = Trunk(vgg11(), num_features=4096)
        kept = _kept(trunk, "vgg11", 2)
    assert sum(isinstance(each, nn.MaxPool2d) for each in kept) == 3
    assert isinstance(kept[-1], nn.MaxPool2d)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: hybrid(*build("resnet20"), drop=1, blocks="residual", count=1, width=8, seed=0),
            "resnet20 is not one",
        ),
        (lambda: changed("residual", drop=99), "has 9 stages"),
        (lambda: hybrid(*squeezenet(), drop=1, blocks="inception", count=1, width=7, seed=0), "of width 7"),
    ],
)
def test_a_hybrid_that_cannot_be(make: Callable[[], Made], said: str) -> None:
    with pytest.raises(GraftError, match=said):
        make()


# --- side by side


@torch.inference_mode()
def test_each_part_sees_its_own_preparation() -> None:
    own = Preprocessing(input_size=24, resize_size=24, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    first, second = build("digits_cnn", seed=1), build("resnet20", preprocessing=own)
    both, config = combined([first, second])
    assert config.preprocessing == first[1].preprocessing
    pixels = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    smaller = functional.interpolate(pixels / 255, (24, 24), mode="bilinear", antialias=True) * 255
    features = both.eval()(config.preprocessing.normalise(pixels))
    wanted = [first[0].eval()(config.preprocessing.normalise(pixels)) / 128**0.5]
    wanted.append(second[0].eval()(own.normalise(smaller)) / 8)
    assert torch.allclose(features, torch.cat(wanted, 1), atol=1e-5)


@torch.inference_mode()
def test_parts_are_standardised_by_what_they_give() -> None:
    both, config = combined([build("digits_cnn"), build("resnet20")])
    both.eval()
    x = images(config, 20)
    assert isinstance(both.network, Combined)
    for _ in range(2):  # the second time from what is standardised already
        before = both(x)
        both.network.standardise(before.mean(0), before.std(0, correction=0) + 1e-6)
        after = both(x) * both.network.lengths()
        assert after.mean(0).abs().max() < 1e-3
        assert after[:, before.std(0) > 1e-3].std(0, correction=0).numpy() == pytest.approx(1, abs=0.01)


def test_resizing_is_torchs() -> None:
    x = torch.rand(2, 3, 40, 40)
    for side in (13, 40, 70):
        matrix = resizing(40, side)
        wanted = functional.interpolate(x, (side, side), mode="bilinear", antialias=True)
        assert np.allclose(matrix @ x @ matrix.T, wanted, atol=1e-5)
