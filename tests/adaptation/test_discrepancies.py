"""Terms that compare or sharpen answers: DAN, Deep CORAL, MCC, SHOT, self-training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.adaptation.certainty import certainty, entropy
from graft.adaptation.dan import dan, mmd
from graft.adaptation.deep_coral import coral_loss, covariance, deep_coral
from graft.adaptation.mcc import confusion_loss, mcc
from graft.adaptation.self_training import self_training
from graft.adaptation.shot import information_loss, pseudo_labels, shot
from graft.images.table import ImageTable
from graft.training.freezing import unfreeze
from tests.adaptation.conftest import PARAMS

Student = Callable[..., tuple]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 12), st.integers(2, 12), st.integers(1, 5))
def test_mmd_is_symmetric_not_negative_and_zero_with_itself(seed: int, n: int, m: int, width: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    one, other = (torch.randn(k, width, generator=draw, dtype=torch.float64) for k in (n, m))
    assert abs(mmd(one, one).item()) < 1e-12
    assert mmd(one, other).item() >= -1e-12
    assert mmd(one, other).item() == pytest.approx(mmd(other, one).item(), abs=1e-12)


def test_mmd_of_two_points_is_written_out() -> None:
    """Points at 0 and 1: distances 1 off the diagonal, so d = 1/2 and MMD = 2 - 2 mean_i exp(-2 / 2^i)."""
    value = mmd(torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64))
    kernel = sum(torch.exp(torch.tensor(-2.0 / 2**i, dtype=torch.float64)) for i in (-3, -2, -1, 0, 1)) / 5
    assert value.item() == pytest.approx(2 - 2 * kernel.item(), abs=1e-12)


def test_mmd_grows_with_the_shift_and_its_gradient_closes_it() -> None:
    torch.manual_seed(0)
    source, noise = torch.randn(40, 3, dtype=torch.float64), torch.randn(40, 3, dtype=torch.float64)
    values = [mmd(source, noise + shift).item() for shift in (0.0, 0.5, 1.0, 2.0)]
    assert values == sorted(values)
    shift = torch.full((3,), 1.5, dtype=torch.float64, requires_grad=True)
    mmd(source, noise + shift).backward()
    assert (shift.grad > 0).all()


def test_coral_loss_is_written_out_and_zero_for_equal_covariances() -> None:
    torch.manual_seed(0)
    features = torch.randn(20, 4, dtype=torch.float64)
    assert torch.allclose(covariance(features), torch.cov(features.T))
    assert coral_loss(features, features + 7).item() == pytest.approx(0, abs=1e-20)
    doubled = coral_loss(features, 2 * features).item()  # C_t = 4 C_s: the difference is 3 C_s
    assert doubled == pytest.approx(9 * torch.cov(features.T).square().sum().item() / 64)


def test_a_sure_answer_counts_twice_an_unsure_one_little_more_than_once() -> None:
    answers = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    assert entropy(answers) == pytest.approx([0.0, 0.6931], abs=1e-4)
    assert certainty(answers) == pytest.approx([2.0, 1.5], abs=1e-4)


def test_class_confusion_is_zero_for_sure_answers_and_all_but_one_share_for_torn_ones() -> None:
    sure = 200 * torch.eye(3).repeat(2, 1)
    assert confusion_loss(sure, 2.5).item() == pytest.approx(0, abs=1e-6)
    assert confusion_loss(torch.zeros(6, 3), 2.5).item() == pytest.approx(2 / 3, abs=1e-6)


def test_information_wants_sure_and_varied_answers() -> None:
    sure = 100 * torch.eye(4)
    assert information_loss(sure).item() == pytest.approx(-torch.log(torch.tensor(4.0)).item(), abs=1e-4)
    assert information_loss(sure[:1].repeat(4, 1)).item() == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (lambda x: confusion_loss(x, 2.5), (5, 3)),
        (information_loss, (5, 3)),
        (lambda x: coral_loss(x, torch.eye(5, 3, dtype=torch.float64)), (5, 3)),
    ],
)
def test_gradients_against_finite_differences(
    function: Callable[[torch.Tensor], torch.Tensor], shape: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    if function is information_loss or function.__code__.co_consts[-1:] != (2.5,):
        assert torch.autograd.gradcheck(function, (x,))
    else:  # weights are constants in the gradient, as in the paper, so only its direction can be held
        function(x).backward()
        with torch.no_grad():
            assert function(x - 0.1 * x.grad) < function(x)


def test_pseudo_labels_follow_the_clusters_not_single_answers() -> None:
    """Two clusters; one member of the first is answered wrongly, and outvoted."""
    features = torch.tensor([[1.0, 0.1], [1.0, 0.0], [0.9, 0.0], [0.0, 1.0], [0.1, 1.0], [0.0, 0.9]])
    answers = torch.tensor([[0.9, 0.1, 0], [0.9, 0.1, 0], [0.4, 0.6, 0], [0, 1, 0], [0, 1, 0], [0.1, 0.9, 0]])
    assert pseudo_labels(features, answers).tolist() == [0, 0, 0, 1, 1, 1]


def test_shot_reads_no_source_image_and_leaves_the_head(table: ImageTable, student: Student) -> None:
    rows = table.rows.copy()
    source = rows["domain"] == "source"
    rows.loc[source & (rows["label"] >= 0), "label"] = 1  # another task altogether
    rows.loc[~source & (rows["split"] != "test"), "label"] = -1
    blind = table.rows.copy()
    blind.loc[~source & (blind["split"] != "test"), "label"] = -1
    values = []
    for images in (blind, rows):
        model, domains = student(dataclasses.replace(table, rows=images))
        learner, loss = shot(model, domains, PARAMS)
        value, _ = loss(0)
        value.backward()
        assert all(parameter.grad is None for parameter in model.head.parameters())
        assert any(parameter.grad is not None for parameter in model.trunk.parameters())
        unfreeze(learner)
        values.append(value.detach())
    assert torch.equal(*values)


def test_pseudo_labels_of_an_epoch_stay_whatever_step_comes_first(student: Student) -> None:
    model, domains = student()
    _, loss = shot(model, domains, PARAMS)
    _, other = shot(model, domains, PARAMS)
    assert torch.equal(loss(1)[0], (other(0), other(1))[1][0])
    unfreeze(model)


def test_self_training_ignores_what_it_is_not_sure_of(student: Student) -> None:
    model, domains = student()
    strict = PARAMS.model_copy(
        update={"self_training": PARAMS.self_training.model_copy(update={"threshold": 1.0})}
    )
    loose = PARAMS.model_copy(
        update={"self_training": PARAMS.self_training.model_copy(update={"threshold": 0.0})}
    )
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.zero_()
        model.head.bias[0] = 1e-3  # every answer is as sure as every other, source and target alike
    assert self_training(model, domains, loose)[1](3)[1]["confident"] == 1.0
    with torch.no_grad():
        model.head.weight.normal_(0, 5.0)  # answers differ: none of a random few may beat the mean
    sure = self_training(model, domains, strict)[1](3)[1]["confident"]
    assert 0.0 <= sure < 1.0


@pytest.mark.parametrize("method", [dan, deep_coral, mcc, self_training])
def test_the_term_is_silent_at_the_start(student: Student, method: Callable[..., tuple]) -> None:
    model, domains = student()
    value, logs = method(model, domains, PARAMS)[1](0)
    assert logs["lambda"] == 0
    assert value.item() == pytest.approx(logs["label_loss"])
