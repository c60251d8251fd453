import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from graft.training.averaging import WeightAverage
from graft.training.freezing import freeze


def test_the_first_steps_by_hand() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 0.0)
    average = WeightAverage(model, 0.15)
    expected = 0.0
    for decay, weight in [(1 / 10, 1.0), (0.15, 3.0), (0.15, -2.0)]:  # 2 / 11 is more than 0.15
        nn.init.constant_(model.weight, weight)
        average.update()
        expected = decay * expected + (1 - decay) * weight
    with average.applied():
        assert model.weight.item() == pytest.approx(expected)
    assert model.weight.item() == -2.0


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=20), st.floats(0.01, 0.999))
def test_the_average_lies_among_the_weights_it_has_seen(weights: list[float], decay: float) -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, weights[0])
    average = WeightAverage(model, decay)
    for weight in weights:
        nn.init.constant_(model.weight, weight)
        average.update()
    with average.applied():
        assert min(weights) - 1e-5 <= model.weight.item() <= max(weights) + 1e-5


def test_only_what_learns_is_averaged_and_all_comes_back_bit_for_bit() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    freeze(model[0])
    average = WeightAverage(model, 0.9)
    with torch.no_grad():
        for tensor in [*model.parameters(), model[1].running_mean]:
            tensor.add_(torch.rand_like(tensor))
    average.update()
    raw = copy.deepcopy(model.state_dict())
    with pytest.raises(KeyboardInterrupt), average.applied():  # noqa: PT012
        inside = copy.deepcopy(model.state_dict())
        raise KeyboardInterrupt
    changed = {name for name in raw if not torch.equal(raw[name], inside[name])}
    assert changed == {"1.weight", "1.bias", "2.weight", "2.bias"}
    assert all(torch.equal(raw[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_a_decay_that_is_none_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match="decay of the weights' average"):
        WeightAverage(nn.Linear(1, 1), decay)
