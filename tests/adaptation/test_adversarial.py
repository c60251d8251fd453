import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from graft.adaptation.adversary import GradientReversal, domain_loss
from graft.adaptation.cdan import MOST, MultilinearMap, cdan, cdan_e
from graft.adaptation.dann import dann
from graft.images.table import ImageTable
from graft.training.schedules import reversal
from tests.adaptation.conftest import PARAMS

Student = Callable[..., tuple]


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_gradient_reversal_is_the_written_out_gradient(strength: float) -> None:
    """d/dx of R(x)^2 / 2 is x forward-wise, so -lambda x arrives."""
    x = torch.tensor([[1.0, -2.0, 3.0]], requires_grad=True)
    y = GradientReversal.apply(x, strength)
    assert torch.equal(y, x)
    (y.square().sum() / 2).backward()
    assert torch.equal(x.grad, -strength * x.detach())


def test_a_domain_classifier_that_guesses_loses_log_2_whatever_the_sizes_and_weights() -> None:
    blind = nn.Linear(3, 1)
    nn.init.zeros_(blind.weight)
    nn.init.zeros_(blind.bias)
    source, target = torch.randn(5, 3), torch.randn(11, 3)
    loss, _ = domain_loss(blind, source, target, 1.0)
    weighted, _ = domain_loss(blind, source, target, 1.0, weights=torch.rand(16) + 0.1)
    assert loss.item() == pytest.approx(math.log(2), abs=1e-6)
    assert weighted.item() == pytest.approx(math.log(2), abs=1e-6)


def test_weights_count_within_their_domain() -> None:
    """Source images with logits 0 and 4, the second counting three times: (log 2 + 3 log(1 + e^-4)) / 4."""
    read = nn.Linear(1, 1)
    with torch.no_grad():
        read.weight.fill_(1.0)
        read.bias.zero_()
    loss, logs = domain_loss(
        read,
        torch.tensor([[0.0], [4.0]]),
        torch.tensor([[-4.0]]),
        1.0,
        weights=torch.tensor([1.0, 3.0, 9.0]),
    )
    sure = math.log1p(math.exp(-4))
    assert loss.item() == pytest.approx(((math.log(2) + 3 * sure) / 4 + sure) / 2, abs=1e-6)
    assert logs["domain_accuracy"] == pytest.approx(2 / 3)  # a logit of 0 does not say "source"


@pytest.mark.parametrize("method", [dann, cdan, cdan_e])
def test_the_features_climb_what_the_domain_classifier_descends(
    student: Student, method: Callable[..., tuple]
) -> None:
    """lambda is 0 at the start: then the domain classifier learns and the trunk does not hear of it."""
    model, domains = student()
    adversary, loss = method(model, domains, PARAMS)
    adversary.eval()
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.zero_()  # the label term then has no gradient in the features

    def gradients(step: int) -> tuple[torch.Tensor, torch.Tensor, dict[str, float]]:
        adversary.zero_grad()
        value, logs = loss(step)
        value.backward()
        trunk = next(model.trunk.parameters()).grad
        return trunk.clone(), adversary.domain[0].weight.grad.clone(), logs

    still, domain_still, _ = gradients(step=0)
    assert torch.count_nonzero(still) == 0
    assert torch.count_nonzero(domain_still) > 0
    moved, _, logs = gradients(step=3)
    assert torch.count_nonzero(moved) > 0
    assert logs["lambda"] == reversal(domains.progress(3))


def test_labels_of_target_images_are_not_looked_at_by_the_domain_term(
    table: ImageTable, student: Student
) -> None:
    rows = table.rows.copy()
    rows.loc[rows["split"] == "unlabeled", "label"] = 2
    values = []
    for images in (table, dataclasses.replace(table, rows=rows)):
        torch.manual_seed(0)
        adversary, loss = dann(*student(images), PARAMS)
        adversary.eval()
        values.append(loss(3)[0])
    assert torch.equal(*values)


def test_the_multilinear_map_is_the_outer_product() -> None:
    joined = MultilinearMap(2, 3)
    product = joined(torch.tensor([[2.0, 5.0]]), torch.tensor([[0.1, 0.2, 0.7]]))
    assert torch.allclose(product, torch.tensor([[0.2, 0.4, 1.4, 0.5, 1.0, 3.5]]))


def test_a_large_product_is_drawn_so_that_inner_products_stay() -> None:
    """E[T(f, g) . T(f', g')] = (f . f')(g . g'), Long et al. 2018, theorem 1."""
    torch.manual_seed(0)
    features, answers = torch.randn(2, MOST // 8), torch.rand(2, 16).softmax(1)
    joined = MultilinearMap(MOST // 8, 16)
    assert joined.random
    drawn = joined(features, answers)
    wanted = (features @ features.T) * (answers @ answers.T)
    assert drawn @ drawn.T == pytest.approx(wanted, rel=0.35, abs=0.35 * wanted.max().item())
    assert joined.state_dict()  # stored with a checkpoint: a resumed run goes on with the same draw
