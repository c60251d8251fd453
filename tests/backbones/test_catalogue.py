"""Every family of networks becomes a trunk: features of the right size, stages, a round trip."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from graft.backbones import catalogue
from graft.backbones.trunk import BackboneConfig, Trunk, build, load_backbone, save_backbone
from graft.errors import GraftError

# name: side of the test images, F
FAMILIES = {
    "digits_cnn": (32, 128),
    "dann_cnn": (28, 100),
    "resnet20": (32, 64),
    "googlenet": (64, 1024),
    "inception_v3": (96, 2048),
    "resnet18": (64, 512),
    "squeezenet1_1": (64, 512),
    "mobilenet_v2": (64, 1280),
    "mobilenet_v3_small": (64, 1024),
    "efficientnet_b0": (64, 1280),
    "mnasnet0_5": (64, 1280),
    "shufflenet_v2_x0_5": (64, 1024),
    "densenet121": (64, 1024),
    "regnet_y_400mf": (64, 440),
    "swin_t": (64, 768),
    "convnext_tiny": (64, 768),
    "timm/resnet18": (64, 512),
    "timm/darknet53": (64, 1024),
    "timm/mobilenetv3_small_050": (64, 1024),
    "timm/vit_tiny_patch16_224": (224, 192),
    "timm/deit_tiny_distilled_patch16_224": (224, 192),
}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> tuple[Trunk, BackboneConfig, torch.Tensor]:
    trunk, config = build(request.param)
    side = FAMILIES[request.param][0]
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    return trunk.eval(), config, images


def test_gives_pooled_features(family: tuple[Trunk, BackboneConfig, torch.Tensor]) -> None:
    trunk, config, images = family
    with torch.inference_mode():
        features = trunk(images)
    assert features.shape == (2, FAMILIES[config.name][1]) == (2, config.num_features)
    assert features.isfinite().all()
    assert not torch.equal(features[0], features[1])


def test_stages_hold_every_tensor_once(family: tuple[Trunk, BackboneConfig, torch.Tensor]) -> None:
    trunk, _, _ = family
    stages = trunk.stages
    assert len(stages) >= 4
    assert len({name for name, _ in stages}) == len(stages)
    for tensors in (nn.Module.parameters, nn.Module.buffers):
        found = [id(tensor) for _, stage in stages for tensor in tensors(stage)]
        assert sorted(found) == sorted(id(tensor) for tensor in tensors(trunk))
    assert all(any(p.ndim > 1 for p in stage.parameters()) for _, stage in stages)


def test_stages_are_in_the_order_of_execution(family: tuple[Trunk, BackboneConfig, torch.Tensor]) -> None:
    trunk, _, images = family
    called: list[int] = []
    hooks = [
        module.register_forward_hook(lambda *_, number=number: called.append(number))
        for number, (_, stage) in enumerate(trunk.stages)
        for module in stage.modules()
        if any(p.ndim > 1 for p in module.parameters(recurse=False))
    ]
    with torch.inference_mode():
        trunk(images)
    for hook in hooks:
        hook.remove()
    assert called == sorted(called)
    assert set(called) == set(range(len(trunk.stages)))


def test_survives_safetensors(family: tuple[Trunk, BackboneConfig, torch.Tensor], tmp_path: Path) -> None:
    trunk, config, images = family
    save_backbone(trunk, config, tmp_path)
    loaded, read = load_backbone(tmp_path)
    assert read.sha256
    assert replace(read, sha256=None) == config
    with torch.inference_mode():
        assert torch.equal(loaded.eval()(images), trunk(images))


@pytest.mark.parametrize(
    ("name", "features", "stages"),
    [
        ("alexnet", 4096, 7),
        ("vgg16_bn", 4096, 15),
        ("resnet152", 2048, 51),
        ("resnext50_32x4d", 2048, 17),
        ("wide_resnet50_2", 2048, 17),
        ("squeezenet1_0", 512, 9),
        ("mobilenet_v3_large", 1280, 18),
        ("mnasnet1_3", 1280, 20),
        ("maxvit_t", 512, 8),
        ("swin_v2_t", 768, 16),
        ("vit_l_16", 1024, 25),
        ("vit_h_14", 1280, 33),
    ],
)
def test_large_architectures_are_known(name: str, features: int, stages: int) -> None:
    with torch.device("meta"):  # no memory for weights
        network = catalogue.create(name, seed=0)
    trunk = Trunk(network.module, num_features=network.num_features)
    found = [id(p) for _, stage in trunk.stages for p in stage.parameters()]
    assert (network.num_features, len(trunk.stages)) == (features, stages)
    assert sorted(found) == sorted(id(p) for p in trunk.parameters())


def test_the_seed_decides_the_weights_and_nothing_else() -> None:
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    first, again, other = (build("digits_cnn", seed=seed)[0].state_dict() for seed in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["network.block1.0.weight"], other["network.block1.0.weight"])


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("resnet81", "resnet18"), ("darknet53", "timm/darknet53"), ("timm/resnet19", "timm/resnet18")],
)
def test_an_unknown_name_is_answered_with_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(GraftError) as error:
        build(name)
    assert repr(name) in error.value.problem
    assert nearest in error.value.fix.replace(",", "").split()


def test_preprocessing_is_the_provider_s() -> None:
    swin = build("swin_v2_t")[1].preprocessing
    assert (swin.input_size, swin.resize_size, swin.interpolation) == (256, 260, "bicubic")
    vit = build("timm/vit_tiny_patch16_224")[1].preprocessing
    assert (vit.input_size, vit.resize_size, vit.interpolation) == (224, 249, "bicubic")
    assert vit.mean == (0.5, 0.5, 0.5)


def test_googlenet_s_own_normalisation_is_in_the_preprocessing() -> None:
    """Published GoogLeNet and Inception re-normalise their input inside; ours must see the same."""
    from torchvision.models import GoogLeNet, GoogLeNet_Weights

    pixels = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    preset = GoogLeNet_Weights.DEFAULT.transforms()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preset.mean, preset.std))
    inside = GoogLeNet(num_classes=10, transform_input=True, aux_logits=False, init_weights=False)
    expected = inside._transform_input((pixels / 255 - mean) / std)
    assert torch.allclose(build("googlenet")[1].preprocessing.normalise(pixels), expected, atol=1e-5)


def test_a_vision_transformer_takes_the_size_its_weights_were_trained_at() -> None:
    small = replace(build("digits_cnn")[1].preprocessing, input_size=64, resize_size=64)
    trunk, config = build("vit_b_32", preprocessing=small)
    with torch.inference_mode():
        assert trunk.eval()(torch.rand(1, 3, 64, 64)).shape == (1, 768)
    assert config.preprocessing == small
