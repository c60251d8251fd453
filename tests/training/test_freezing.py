import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from graft.training import loop
from graft.training.freezing import freeze, keep_statistics, trainable, unfreeze


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


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_parameters_and_statistics_of_a_frozen_part_are_bit_identical_after_training(
    precision: torch.dtype,
) -> None:
    model = network()
    freeze(model[0])
    before = copy.deepcopy(model.state_dict())
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        assert model(torch.randn(2, 3, 8, 8)).dtype == precision
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


def test_the_loop_in_mixed_precision_leaves_a_frozen_part_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "autocast", lambda device: torch.autocast("cpu", torch.bfloat16))
    model, seen = network(), set()
    freeze(model[0])
    before = copy.deepcopy(model.state_dict())

    def loss(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        logits = model(torch.randn(8, 3, 8, 8))
        seen.add(logits.dtype)
        return (logits.float() - step).square().mean(), {}

    loop.fit(model, loss, loop.Phase("p", 2, 3, 0.1, weight_decay=0.1, ema=0.5), work=tmp_path)
    assert seen == {torch.bfloat16}
    for name, tensor in model.state_dict().items():
        assert torch.equal(before[name], tensor) == name.startswith("0."), name
        assert tensor.dtype == before[name].dtype


def test_kept_statistics_stay_while_weights_learn() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    freeze(model[2])
    freeze(model[3])
    keep_statistics(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        model.train()
        model(torch.randn(8, 3, 8, 8)).square().mean().backward()
        optimizer.step()
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {"0.weight", "0.bias", "1.weight", "1.bias"}
    unfreeze(model)
    model.train()(torch.randn(8, 3, 8, 8))
    assert not torch.equal(model[1].running_mean, before["1.running_mean"])
