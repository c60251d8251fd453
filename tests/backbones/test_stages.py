"""Stages of any tree of modules, not only of known networks."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from graft.backbones.stages import stages


class Wrapper(nn.Module):
    """Has tensors of its own beside its children, as vision transformers do."""

    def __init__(self, children: list[nn.Module]) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 2, 3))
        self.register_buffer("scale", torch.ones(1))
        self.blocks = nn.Sequential(*children)
        self.norm = nn.LayerNorm(4)


leaves = st.sampled_from(
    [
        lambda: nn.Conv2d(3, 4, 3),
        lambda: nn.Linear(4, 4),
        lambda: nn.BatchNorm2d(4),
        lambda: nn.ReLU(),
        lambda: nn.Dropout(),
    ]
).map(lambda make: make())
trees = st.recursive(
    leaves,
    lambda inner: st.lists(inner, min_size=1, max_size=4).flatmap(
        lambda children: st.sampled_from(
            [nn.Sequential(*children), nn.ModuleList(children), Wrapper(children)]
        )
    ),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(trees, min_size=1, max_size=4))
def test_every_tensor_and_leaf_is_in_exactly_one_stage(children: list[nn.Module]) -> None:
    network = Wrapper(children)
    found = [stage for _, stage in stages(network)]
    for tensors in (nn.Module.parameters, nn.Module.buffers):
        assert sorted(id(t) for stage in found for t in tensors(stage)) == sorted(
            id(t) for t in tensors(network)
        )
    leaf_ids = [id(m) for m in network.modules() if not list(m.children()) and not isinstance(m, Wrapper)]
    in_stages = [id(m) for stage in found for m in stage.modules()]
    assert all(in_stages.count(leaf) == 1 for leaf in leaf_ids)


def test_what_has_no_weights_joins_the_layer_before_it() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Dropout(), nn.Flatten()
    )
    found = stages(network)
    assert [name for name, _ in found] == ["0", "3"]
    assert [type(m).__name__ for m in found[0][1].children()] == ["Conv2d", "BatchNorm2d", "ReLU"]


def test_what_comes_before_any_layer_joins_the_first() -> None:
    found = stages(Wrapper([nn.Linear(4, 4), nn.Linear(4, 4)]))
    assert [name for name, _ in found] == ["blocks.0", "blocks.1"]
    assert {tuple(p.shape) for p in found[0][1].parameters()} == {(1, 2, 3), (4, 4), (4,)}


def test_a_stage_in_eval_mode_reaches_its_dropout_and_batch_norm() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Conv2d(4, 4, 3))
    stages(network)[0][1].eval()
    assert [module.training for module in network] == [False, False, False, True]


class Tower(nn.Sequential):
    """A container under a name of its own, as timm's PiT has one."""


def test_a_container_s_subclass_with_most_of_the_weights_is_opened() -> None:
    block = Tower(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))  # small: one stage
    network = nn.ModuleDict({"stem": block, "tower": Tower(*(nn.Linear(9, 9) for _ in range(4)))})
    assert [name for name, _ in stages(network)] == ["stem", *(f"tower.{number}" for number in range(4))]
