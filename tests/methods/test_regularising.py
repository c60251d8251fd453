from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from graft.backbones.classifier import Classifier
from graft.methods.interpolation import interpolate
from graft.methods.regularising import l2_sp
from graft.training.freezing import freeze

Learner = Callable[..., Classifier]
NEW = "network.dense.0.weight"


def nothing(_step: int) -> tuple[Tensor, dict[str, float]]:
    return torch.zeros((), dtype=torch.float64), {"seen": 1.0}


def moved(model: Classifier) -> None:
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))


def test_the_pull_has_the_gradient_of_the_papers_formula(learner: Learner) -> None:
    """alpha (w - w0) on the trunk, beta w on what is new; against finite differences, too."""
    model = learner().double()
    start = {name: p.detach().clone() for name, p in model.trunk.named_parameters()}
    loss = l2_sp(nothing, model, alpha=0.3, beta=0.7, new={NEW})
    moved(model)
    value, logs = loss(0)
    value.backward()
    assert logs == {"seen": 1.0}
    for name, parameter in model.trunk.named_parameters():
        expected = 0.7 * parameter if name == NEW else 0.3 * (parameter - start[name])
        assert torch.allclose(parameter.grad, expected), name
    assert torch.allclose(model.head.weight.grad, 0.7 * model.head.weight)
    for parameter in (model.trunk.network.block1[0].weight, model.head.bias):
        with torch.no_grad():
            parameter.view(-1)[0] += 1e-5
            above = loss(0)[0]
            parameter.view(-1)[0] -= 2e-5
            below = loss(0)[0]
            parameter.view(-1)[0] += 1e-5
        assert ((above - below) / 2e-5).item() == pytest.approx(float(parameter.grad.view(-1)[0]), rel=1e-4)


def test_frozen_weights_cost_nothing_and_the_start_costs_nothing(learner: Learner) -> None:
    model = learner()
    loss = l2_sp(nothing, model, alpha=0.3, beta=0.0)
    assert loss(0)[0].item() == 0.0
    moved(model)
    freeze(model.trunk)
    assert loss(0)[0].item() == 0.0


def normalised(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    model(torch.randn(8, 3) * seed)
    return model


@given(st.floats(0, 1))
def test_interpolation_is_between_and_exact_at_its_ends(alpha: float) -> None:
    tuned, probe = normalised(2), normalised(1).state_dict()
    probe["0.bias"] = tuned.state_dict()["0.bias"].clone()  # what did not change
    before = {name: tensor.clone() for name, tensor in tuned.state_dict().items()}
    interpolate(tuned, probe, alpha)
    for name, tensor in tuned.state_dict().items():
        if tensor.is_floating_point():
            assert torch.allclose(tensor, (1 - alpha) * probe[name] + alpha * before[name], atol=1e-6)
        end = {0.0: probe, 1.0: before}.get(alpha)
        assert end is None or torch.equal(tensor, end[name])
    assert torch.equal(tuned.state_dict()["0.bias"], before["0.bias"])
