import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from graft.backbones.classifier import Classifier
from graft.errors import GraftError
from graft.images.augmentation import Policy, policy
from graft.images.table import ImageTable
from graft.methods.multi_task import TwoTasks, multi_task, two_task_loss
from graft.params import Augmentation, FineTuning, MultiTask
from graft.training.supervised import domain_batches, labelled_index
from tests.methods.learning import classifier, killed_and_resumed, relabelled, same

PARAMS = FineTuning(
    method="multi_task",
    head_epochs=1,
    epochs=2,
    batch_size=16,
    learning_rate=1e-3,
    multi_task=MultiTask(target_epochs=1),
)


def drawn(model: Classifier) -> Policy:
    return policy(Augmentation(), model.config.preprocessing)


def trained(table: ImageTable, work: Path, **changes: Any) -> tuple[Classifier, list[dict[str, Any]]]:
    model = classifier(table)
    return multi_task(table, model, drawn(model), PARAMS.model_copy(update=changes), work=work)


def two_tasks(table: ImageTable, weight: float | None) -> TwoTasks:
    return TwoTasks(classifier(table), torch.arange(len(table.classes)).numpy(), weight)


def weighing(weight: float | None, s: Sequence[float] = (0.0, 0.0)) -> TwoTasks:
    """What weighs two losses, without a network."""
    both = TwoTasks.__new__(TwoTasks)
    nn.Module.__init__(both)
    both.weight = weight
    both.log_variances = nn.Parameter(torch.tensor(s, dtype=torch.float64))
    return both


@settings(deadline=None)
@given(st.floats(0.01, 5), st.floats(0.01, 5), st.floats(0.1, 10))
def test_a_fixed_weight_is_of_the_target(source: float, target: float, weight: float) -> None:
    value = weighing(weight).joint(torch.tensor([source, target], dtype=torch.float64))
    assert value.item() == pytest.approx(source + weight * target)


pairs = st.tuples(st.floats(0.05, 5), st.floats(0.05, 5))


@settings(deadline=None)
@given(pairs, st.tuples(st.floats(-2, 2), st.floats(-2, 2)))
def test_learned_weights_are_kendalls(losses: tuple[float, ...], s: tuple[float, ...]) -> None:
    """sum_i exp(-s_i) L_i + s_i / 2, and its gradient in s_i is 1/2 - exp(-s_i) L_i."""
    both = weighing(None, s)
    value = both.joint(torch.tensor(losses, dtype=torch.float64))
    expected = sum(math.exp(-x) * y + x / 2 for x, y in zip(s, losses, strict=True))
    assert value.item() == pytest.approx(expected)
    value.backward()
    gradient = [0.5 - math.exp(-x) * y for x, y in zip(s, losses, strict=True)]
    assert both.log_variances.grad.tolist() == pytest.approx(gradient, abs=1e-9)


def test_uncertainties_come_to_rest_at_the_log_of_twice_the_losses() -> None:
    both, losses = weighing(None), torch.tensor([0.2, 1.5], dtype=torch.float64)
    optimizer = torch.optim.Adam([both.log_variances], lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        both.joint(losses).backward()
        optimizer.step()
    assert both.weights().tolist() == pytest.approx((1 / (2 * losses)).tolist(), rel=1e-2)


def test_the_loss_is_the_written_out_sum_of_both_domains(table: ImageTable) -> None:
    both = two_tasks(table, 2.0).eval()
    preprocessing = both.classifier.config.preprocessing
    index = labelled_index(table, "train")
    source, target = domain_batches(table, index, preprocessing, None, batch_size=8, seed=0)
    value, logs = two_task_loss(both, source, target, 0.1)(3)
    features = both.classifier.trunk(source(3)[0])
    first = functional.cross_entropy(both.source_head(features), source(3)[1], label_smoothing=0.1)
    second = functional.cross_entropy(both.classifier(target(3)[0]), target(3)[1], label_smoothing=0.1)
    assert value.item() == pytest.approx((first + 2 * second).item(), rel=1e-5)
    assert (logs["source_weight"], logs["target_weight"]) == (1.0, 2.0)


def test_each_head_learns_from_its_domain_and_the_trunk_from_both(table: ImageTable) -> None:
    both = two_tasks(table, 1.0).eval()
    weight = both.classifier.trunk.network.block1[0].weight
    losses = nn.ParameterList([both.source_head.weight, both.classifier.head.weight])
    index = labelled_index(table, "train")
    streams = domain_batches(table, index, both.classifier.config.preprocessing, None, batch_size=8, seed=0)
    for lone, silent in ((0, 1), (1, 0)):
        both.joint = lambda terms, lone=lone: terms[lone]  # type: ignore[method-assign]
        both.zero_grad()
        two_task_loss(both, *streams, 0.0)(0)[0].backward()
        assert torch.count_nonzero(losses[lone].grad)
        assert torch.count_nonzero(weight.grad)
        assert losses[silent].grad is None or not torch.count_nonzero(losses[silent].grad)


def test_phases_and_the_ordinary_classifier(table: ImageTable, tmp_path: Path) -> None:
    before = classifier(table)
    model, history = trained(table, tmp_path)
    assert [row["phase"] for row in history] == ["heads", "both", "both", "target"]
    assert model.state_dict().keys() == before.state_dict().keys()
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert history[2]["source_weight"] != 1.0  # the uncertainties moved
    assert {"source_loss", "target_loss", "source_accuracy", "val_accuracy"} <= history[0].keys()


def test_a_fixed_weight_stays(table: ImageTable, tmp_path: Path) -> None:
    _, history = trained(table, tmp_path, multi_task=MultiTask(weight=0.5, target_epochs=0))
    assert [row["phase"] for row in history] == ["heads", "both", "both"]
    assert all((row["source_weight"], row["target_weight"]) == (1.0, 0.5) for row in history)


def test_the_sources_head_has_the_sources_classes(table: ImageTable, tmp_path: Path) -> None:
    """Where the source lacks a class, that class is still told of the target."""
    rows = table.rows
    fewer = relabelled(table, (rows["domain"] == "source") & (rows["label"] == 1), -1)
    model, _ = trained(fewer, tmp_path)
    state = torch.load(tmp_path / "both.pt", weights_only=True)["model"]
    assert state["source_head.weight"].shape[0] == 2
    assert model.head.out_features == 3


@pytest.mark.parametrize("after", [1, 2, 4])
def test_killed_after_any_epoch_it_ends_with_the_same_weights(
    table: ImageTable, tmp_path: Path, after: int
) -> None:
    whole, history = trained(table, tmp_path / "whole")
    resumed, again = killed_and_resumed(lambda work: trained(table, work), tmp_path / "killed", after=after)
    assert same(whole, resumed)
    assert [row["loss"] for row in again] == [row["loss"] for row in history]


def test_labels_of_the_test_split_make_no_difference(table: ImageTable, tmp_path: Path) -> None:
    swapped = relabelled(table, table.rows["split"] == "test", 0)
    assert same(trained(table, tmp_path / "a")[0], trained(swapped, tmp_path / "b")[0])


def test_without_validation_images_the_last_epoch_is_kept(table: ImageTable, tmp_path: Path) -> None:
    blind = relabelled(table, table.rows["split"] == "val", -1)
    model, history = trained(blind, tmp_path)
    last = torch.load(tmp_path / "target.pt", weights_only=True)["model"]
    assert all(torch.equal(last[name], tensor) for name, tensor in model.state_dict().items())
    assert "val_accuracy" not in history[-1]


@pytest.mark.parametrize("domain", ["source", "target"])
def test_a_domain_without_labels_is_named(table: ImageTable, tmp_path: Path, domain: str) -> None:
    blind = relabelled(table, (table.rows["domain"] == domain) & (table.rows["split"] == "train"), -1)
    with pytest.raises(GraftError, match=rf"the {domain} has no labelled.*\n.*data/{domain}/train"):
        trained(blind, tmp_path)


def test_one_domain_is_one_task(table: ImageTable, tmp_path: Path) -> None:
    rows = table.rows.assign(domain="")
    with pytest.raises(GraftError, match=r"one domain.*\n.*data/source and data/target"):
        trained(dataclasses.replace(table, rows=rows, domains=("",)), tmp_path)
