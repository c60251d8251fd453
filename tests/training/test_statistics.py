import pytest
import torch
from torch import nn

from graft.training.freezing import freeze
from graft.training.statistics import unbiased_statistics


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


def test_the_first_batches_count_alike_and_later_ones_as_usual() -> None:
    model = network()
    batches = torch.randn(30, 16, 3, 8, 8) * 0.05
    expected = torch.zeros(4)
    with unbiased_statistics([model]):
        for step, batch in enumerate(batches, start=1):
            model(batch)
            share = max(0.1, 1 / step)
            expected = (1 - share) * expected + share * model[0](batch).mean((0, 2, 3))
    assert torch.allclose(model[1].running_mean, expected, atol=1e-6)
    assert model[1].momentum == 0.1
    assert not model[1]._forward_pre_hooks


@pytest.mark.parametrize("steps", [1, 5, 20])
def test_a_few_batches_suffice_for_evaluation_to_agree_with_training(steps: int) -> None:
    """Without it, the variance 1 that a layer is made with drowns a small true one."""
    usual, corrected = network(), network()
    batches = torch.randn(steps, 64, 3, 8, 8) * 0.05
    for batch in batches:
        usual(batch)
    with unbiased_statistics([corrected]):
        for batch in batches:
            corrected(batch)
    spread = torch.stack([corrected[0](b).detach().var((0, 2, 3)) for b in batches]).mean(0)
    assert torch.allclose(corrected[1].running_var, spread, rtol=0.3)
    assert not torch.allclose(usual[1].running_var, spread, rtol=0.3)


def test_it_goes_on_where_a_resumed_network_stopped() -> None:
    whole, resumed = network(), network()
    batches = torch.randn(8, 16, 3, 8, 8)
    with unbiased_statistics([whole]):
        for batch in batches:
            whole(batch)
    with unbiased_statistics([resumed]):
        for batch in batches[:3]:
            resumed(batch)
    again = network()
    again.load_state_dict(resumed.state_dict())
    with unbiased_statistics([again]):
        for batch in batches[3:]:
            again(batch)
    assert torch.equal(again[1].running_var, whole[1].running_var)


def test_a_frozen_layer_stays_as_it_is() -> None:
    model = network()
    freeze(model)
    before = model[1].running_mean.clone()
    with unbiased_statistics([model]):
        model.train()(torch.randn(4, 3, 8, 8))
    assert torch.equal(model[1].running_mean, before)
