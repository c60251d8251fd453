"""Every network that people name does all that graft asks of a backbone, with random weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from graft.backbones.trunk import BackboneConfig, Trunk, build, load_backbone, save_backbone
from graft.images.preprocessing import Preprocessing

# name: side of the images (pixels), F, fewest stages. BatchNorm wants more than one position at the end.
NETWORKS = {
    "alexnet": (63, 4096, 7),
    "googlenet": (64, 1024, 12),
    "inception_v3": (107, 2048, 15),
    "resnet18": (64, 512, 9),
    "resnet34": (64, 512, 17),
    "resnet50": (64, 2048, 17),
    "squeezenet1_1": (32, 512, 9),
    "mobilenet_v2": (64, 1280, 18),
    "mobilenet_v3_small": (64, 1024, 13),
    "mobilenet_v3_large": (64, 1280, 17),
    "efficientnet_b0": (64, 1280, 9),
    "convnext_tiny": (32, 768, 8),
    "timm/darknet53": (64, 1024, 6),
    "timm/cspdarknet53": (64, 1024, 6),
    "timm/darknet17": (64, 1024, 6),
    "timm/cs3darknet_focus_s": (64, 512, 5),
    "timm/vit_tiny_patch16_224": (32, 192, 13),
    "timm/deit_tiny_distilled_patch16_224": (32, 192, 13),
    "timm/pit_ti_224": (64, 256, 5),
    "timm/vit_small_patch14_dinov2": (28, 384, 13),
    "timm/vit_small_patch14_reg4_dinov2": (28, 384, 13),
    "timm/vit_small_patch16_dinov3": (32, 384, 13),
    "timm/vit_xsmall_patch16_clip_224": (32, 256, 11),
    "timm/resnet50_clip": (64, 2048, 17),
}
LARGE = {
    "vgg11": (32, 4096, 10),
    "vit_b_16": (32, 768, 13),
    "timm/darknetaa53": (64, 1024, 6),
    "vgg16": (32, 4096, 15),
    "vgg19": (32, 4096, 18),
    "resnet101": (64, 2048, 34),
    "timm/vit_base_patch16_siglip_224": (32, 768, 13),
    "timm/eva02_base_patch16_clip_224": (32, 768, 13),
}
CASES = [*NETWORKS, *(pytest.param(name, marks=pytest.mark.heavy) for name in LARGE)]


@pytest.mark.parametrize("name", CASES)
def test_it_is_a_whole_backbone(name: str, tmp_path: Path) -> None:
    side, features, fewest = (NETWORKS | LARGE)[name]
    trunk, config = build(name, preprocessing=Preprocessing(side, side))
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    check_stages(trunk, images, features, fewest)
    check_learning(trunk, images)
    check_file(trunk.eval(), config, images, tmp_path)


def check_stages(trunk: Trunk, images: Tensor, features: int, fewest: int) -> None:
    """Every parameter is in one stage, every stage runs, and features come out."""
    stages = trunk.stages
    owned = [id(parameter) for _, stage in stages for parameter in stage.parameters()]
    assert sorted(owned) == sorted(id(parameter) for parameter in trunk.parameters())
    assert len(stages) >= fewest
    ran: dict[str, bool] = {}
    hooks = [
        module.register_forward_hook(lambda module, inputs, output, name=name: ran.update({name: True}))
        for name, stage in stages
        for module in stage.modules()
    ]
    with torch.inference_mode():
        found = trunk.eval()(images)
    for hook in hooks:
        hook.remove()
    assert list(ran) == [name for name, _ in stages]  # in order
    assert found.shape == (len(images), features) == (len(images), trunk.num_features)
    assert found.isfinite().all()


def check_learning(trunk: Trunk, images: Tensor) -> None:
    """A step of training: gradients are finite and reach every stage, and the loss falls."""
    trunk.train()
    head = nn.Linear(trunk.num_features, 2)

    def loss() -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the same units dropped
            return nn.functional.cross_entropy(head(trunk(images)), torch.tensor([0, 1]))

    before = loss()
    before.backward()
    learning = [p for p in trunk.parameters() if p.grad is not None]
    assert all(p.grad.isfinite().all() for p in learning)
    for name, stage in trunk.stages:
        assert any(p.grad is not None and p.grad.any() for p in stage.parameters()), f"{name} learns nothing"
    slope = float(sum(p.grad.square().sum() for p in learning))
    with torch.no_grad():
        for parameter in learning:  # by the slope, the loss falls by 0.001
            parameter -= 1e-3 / slope * parameter.grad
        assert loss() < before


def check_file(trunk: Trunk, config: BackboneConfig, images: Tensor, folder: Path) -> None:
    """Written and read, it gives equal features at the same size of images."""
    save_backbone(trunk, config, folder)
    loaded, read = load_backbone(folder)
    assert replace(read, sha256=None) == config
    with torch.inference_mode():
        assert torch.equal(loaded.eval()(images), trunk(images))
