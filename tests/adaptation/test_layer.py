"""Where the domains are compared."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional

from graft.adaptation.cdan import cdan
from graft.adaptation.dan import dan
from graft.adaptation.dann import dann
from graft.adaptation.layer import compared
from graft.backbones.classifier import Classifier
from graft.backbones.trunk import build
from graft.errors import GraftError
from tests.adaptation.conftest import PARAMS

Student = Callable[..., tuple]


@pytest.fixture
def paper() -> Classifier:
    trunk, config = build("dann_cnn")
    return Classifier(trunk, torch.nn.Linear(100, 10), config=config, classes=list("0123456789")).eval()


def test_by_default_it_is_the_trunk_s_features(paper: Classifier) -> None:
    images = torch.randn(4, 3, 28, 28)
    look, length = compared(paper, None)
    seen, features = look(images)
    assert length == 100
    assert torch.equal(seen, features)
    assert torch.equal(features, paper.trunk(images))


def test_the_paper_s_adversary_sees_all_768_features_of_the_convolutions(paper: Classifier) -> None:
    images = torch.randn(4, 3, 28, 28)
    look, length = compared(paper, "flatten")
    seen, features = look(images)
    assert length == 768
    network = paper.trunk.network
    maps = functional.max_pool2d(functional.relu(network.conv1(images)), 2)
    maps = functional.max_pool2d(functional.relu(network.conv2(maps)), 2)
    assert torch.equal(seen, maps.flatten(1))
    assert torch.equal(features, paper.trunk(images))
    assert not network.flatten._forward_hooks  # nothing stays behind


def test_a_map_is_averaged_over_positions(paper: Classifier) -> None:
    images = torch.randn(2, 3, 28, 28)
    look, length = compared(paper, "conv1")
    maps = paper.trunk.network.conv1(images)
    assert length == 32
    assert torch.allclose(look(images)[0], maps.mean((2, 3)), atol=1e-6)


def test_a_layer_that_is_not_there_is_refused_by_the_name_of_its_setting(paper: Classifier) -> None:
    with pytest.raises(
        GraftError, match=r"domain_adaptation\.layer: the network has no layer 'flaten'"
    ) as error:
        compared(paper, "flaten")
    assert "flatten" in error.value.fix


@pytest.mark.parametrize("method", [dann, cdan, dan])
def test_the_gradient_reaches_the_layer_and_nothing_after_it(student: Student, method: Callable) -> None:
    """With a head that gives zeros for every image only the comparison teaches the trunk."""
    params = PARAMS.model_copy(update={"layer": "block1"})
    model, domains = student(params=params)
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.zero_()
    _, loss = method(model, domains, params)
    loss(3)[0].backward()
    before, after = model.trunk.network.block1[0].weight.grad, model.trunk.network.block3[0].weight.grad
    assert torch.count_nonzero(before) > 0
    assert after is None or torch.count_nonzero(after) == 0
