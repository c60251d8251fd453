"""The list of architectures says what building them gives."""

from __future__ import annotations

import pytest
import torch

from graft.backbones.listing import describe, list_backbones, matches
from graft.backbones.trunk import build


@pytest.mark.parametrize(
    "name",
    [
        "digits_cnn",
        "resnet20",
        "squeezenet1_1",
        "regnet_x_400mf",
        "swin_t",
        "timm/test_vit",
        "timm/vit_tiny_r_s16_p8_224",
        "timm/cs3darknet_focus_s",
    ],
)
def test_a_row_tells_what_is_built(name: str) -> None:
    before = torch.random.get_rng_state()
    row = describe(name)
    assert torch.equal(before, torch.random.get_rng_state())
    trunk, config = build(name)
    assert row.parameters == sum(p.numel() for p in trunk.parameters())
    assert (row.num_features, row.input_size) == (config.num_features, config.preprocessing.input_size)


def test_a_network_larger_than_memory_is_described() -> None:
    assert describe("timm/vit_7b_patch16_dinov3").parameters > 6_000_000_000


def test_weights_are_the_names_that_exist() -> None:
    assert describe("resnet20").weights == ("pretrain", "random")
    assert describe("resnet50").weights == ("IMAGENET1K_V1", "IMAGENET1K_V2")
    assert describe("timm/vit_small_patch14_dinov2").weights == ("lvd142m",)
    assert describe("timm/darknet17").weights == ()


def test_a_search_reaches_timm_and_says_what_it_leaves_out() -> None:
    rows, further = list_backbones("DarkNet*53")
    assert {row.name for row in rows} == {"timm/cspdarknet53", "timm/darknet53", "timm/darknetaa53"}
    assert further == 0
    rows, further = list_backbones("mobilenet_v2", most=0)
    assert [row.name for row in rows] == ["mobilenet_v2"]
    _, further = list_backbones("cs3", most=2)
    assert further > 5


@pytest.mark.parametrize(
    ("name", "search", "expected"),
    [
        ("timm/darknet53", "dark", True),
        ("timm/darknet53", "DARK", True),
        ("timm/darknet53", "dark*53", True),
        ("timm/darknet53", "darknet5?", True),
        ("resnet18", "dark", False),
        ("resnet18", None, True),
    ],
)
def test_what_matches(name: str, search: str | None, expected: bool) -> None:
    assert matches(name, search) is expected
