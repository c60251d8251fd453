import copy

import pytest
import torch
from torch import nn

from graft.training.freezing import freeze, trainable, unfreeze


def network() -> nn.Sequential:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5))
    return nn.Sequential(body, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)))


def train(model: nn.Module, steps: int = 3) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(steps):
        model.train()
        optimizer.zero_grad()
        model(torch.randn(8, 3, 8, 8)).square().mean().backward()
        optimizer.step()


def test_parameters_and_statistics_of_a_frozen_part_are_bit_identical_after_training() -> None:
    model = network()
    freeze(model[0])
    before = copy.deepcopy(model.state_dict())
    train(model)
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith("0."))
    assert any(not torch.equal(before[name], after[name]) for name in before if name.startswith("1."))


def test_a_frozen_part_has_no_dropout_even_in_train_mode() -> None:
    model = network()
    freeze(model[0])
    model.train()
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(model[0](images), model[0](images))


def test_unfreezing_brings_everything_back() -> None:
    model = network()
    freeze(model[0])
    freeze(model[0])
    unfreeze(model[0])
    before = copy.deepcopy(model.state_dict())
    train(model)
    changed = [name for name, tensor in model.state_dict().items() if not torch.equal(before[name], tensor)]
    assert set(changed) == set(before)


def test_only_what_learns_is_trainable() -> None:
    model = network()
    freeze(model[0])
    assert [id(p) for p in trainable(model)] == [id(p) for p in model[1].parameters()]


@pytest.mark.parametrize("part", [0, 1])
def test_freezing_survives_a_copy_of_the_state(part: int) -> None:
    model = network()
    freeze(model[part])
    model.load_state_dict(network().state_dict())
    assert all(not p.requires_grad for p in model[part].parameters())
