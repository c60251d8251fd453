import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from graft.backbones.classifier import Classifier
from graft.errors import GraftError
from graft.images.augmentation import policy
from graft.images.table import ImageTable
from graft.methods.semi_supervised import (
    fixmatch_loss,
    semi_supervised,
    strong_view,
    unlabelled_index,
    weak_view,
)
from graft.params import Augmentation, FineTuning, SemiSupervised
from graft.training.batches import Batches
from graft.training.supervised import cross_entropy, domain_batches, labelled_index
from tests.methods.learning import classifier, killed_and_resumed, relabelled, same

PARAMS = FineTuning(
    method="semi_supervised",
    epochs=2,
    batch_size=16,
    learning_rate=1e-3,
    semi_supervised=SemiSupervised(threshold=0.4, ratio=1),
)


def trained(table: ImageTable, work: Path, **changes: Any) -> tuple[Classifier, list[dict[str, Any]]]:
    model = classifier(table)
    drawn = policy(Augmentation(), model.config.preprocessing)
    return semi_supervised(table, model, drawn, PARAMS.model_copy(update=changes), work=work)


def gradients(model: nn.Module, value: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(value, list(model.parameters())))


class Given:
    """A stream of one given batch."""

    def __init__(self, inputs: Sequence[Sequence[float]], targets: Sequence[Sequence[float]]) -> None:
        # As images of one row, since batches are images.
        self.batch = torch.tensor(inputs).view(len(inputs), 1, 1, -1), torch.tensor(targets)

    def __call__(self, _step: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.batch


def test_the_loss_is_the_written_out_example() -> None:
    """Logits are the inputs: of three weak views two are sure, and name the labels of the strong ones."""
    known = Given([[2.0, 0.0]], [[1.0, 0.0]])
    weak = Given([[3.0, 0.0], [0.0, 4.0], [0.1, 0.0]], [[0.0, 0.0]] * 3)
    strong = Given([[1.0, 0.0], [1.0, 0.0], [9.0, 0.0]], [[0.0, 0.0]] * 3)
    loss = fixmatch_loss(nn.Flatten(), [known], [weak], [strong], threshold=0.9, weight=0.5)
    value, logs = loss(0)
    first = torch.log(1 + torch.exp(torch.tensor(-2.0)))
    right, wrong = torch.log(1 + torch.exp(torch.tensor([-1.0, 1.0])))
    assert value.item() == pytest.approx((first + 0.5 * (right + wrong) / 3).item())
    assert logs["confident"] == pytest.approx(2 / 3)
    assert logs["label_loss"] == pytest.approx(first.item())


def streams(table: ImageTable, model: Classifier) -> tuple[list[Batches], list[Batches], list[Batches]]:
    preprocessing, drawn = model.config.preprocessing, policy(Augmentation(), model.config.preprocessing)
    index = labelled_index(table, "train")
    labelled = domain_batches(table, index, preprocessing, drawn, batch_size=8, seed=0)
    weak = domain_batches(table, unlabelled_index(table), preprocessing, None, batch_size=16, seed=5)
    return labelled, weak, [dataclasses.replace(each, policy=drawn) for each in weak]


def test_above_every_probability_the_gradient_is_the_supervised_one(table: ImageTable) -> None:
    model = classifier(table).eval()
    three = streams(table, model)
    value, logs = fixmatch_loss(model, *three, threshold=1.01, weight=1.0)(2)
    supervised, _ = cross_entropy(model, three[0], 0.0)(2)
    assert logs["confident"] == 0
    assert torch.allclose(value, supervised)
    pairs = zip(gradients(model, value), gradients(model, supervised), strict=True)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in pairs)
    unsure, _ = fixmatch_loss(model, *three, threshold=0.0, weight=1.0)(2)
    assert not torch.allclose(unsure, supervised)


def test_no_gradient_flows_through_the_pseudo_labels(table: ImageTable) -> None:
    """The gradient is that of the strong views with labels held fixed, by finite differences."""
    model = classifier(table).double().eval()
    generator = torch.Generator().manual_seed(0)
    known, weak, strong = (
        torch.rand(n, 3, 32, 32, generator=generator, dtype=torch.float64) for n in (2, 4, 4)
    )
    labels = functional.one_hot(torch.tensor([0, 2]), 3).double()
    given = [lambda _, batch=(x, labels): batch for x in (known, weak, strong)]
    loss = fixmatch_loss(model, *([each] for each in given), threshold=0.34, weight=2.0)
    bias = model.head.bias
    (gradient,) = torch.autograd.grad(loss(0)[0].double(), [bias])
    pseudo = model(weak).argmax(1)
    sure = model(weak).softmax(1).max(1).values >= 0.34
    assert sure.any()

    def held() -> float:
        each = functional.cross_entropy(model(strong), pseudo, reduction="none")
        return (functional.cross_entropy(model(known), labels) + 2 * (sure * each).mean()).item()

    for position in range(3):
        with torch.no_grad():
            bias[position] += 1e-4
            high = held()
            bias[position] -= 2e-4
            low = held()
            bias[position] += 1e-4
        assert gradient[position].item() == pytest.approx((high - low) / 2e-4, abs=1e-4)


def test_under_autocast_every_weight_still_has_a_gradient(table: ImageTable) -> None:
    """The pass without gradients must not leave its cast weights to the pass that learns."""
    model = classifier(table)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, _ = fixmatch_loss(model, *streams(table, model), threshold=0.0, weight=1.0)(0)
    value.backward()
    assert all(torch.count_nonzero(weight.grad) for weight in model.parameters())


def test_both_views_are_of_the_same_images(table: ImageTable) -> None:
    """Without any augmentation, the views of a step are equal; with the policies, they differ."""
    model = classifier(table)
    _, weak, strong = streams(table, model)
    plain = [dataclasses.replace(each, policy=None) for each in strong]
    assert all(torch.equal(a(4)[0], b(4)[0]) for a, b in zip(weak, plain, strict=True))
    assert not torch.equal(weak[0](4)[0], strong[0](4)[0])


@pytest.mark.parametrize(
    "params",
    [Augmentation(), Augmentation(rotate=0, crop_scale=(1, 1), crop_ratio=(1, 1), flip_vertical=0.5)],
)
def test_the_weak_view_only_flips_and_shifts_and_the_strong_one_exceeds_the_policy(
    params: Augmentation,
) -> None:
    weak, strong = weak_view(params), strong_view(params)
    for name in ("rotate", "brightness", "contrast", "saturation", "hue", "noise", "perspective", "elastic"):
        assert getattr(weak, name) == 0
        assert getattr(strong, name) >= getattr(params, name)
    for each in (weak, strong):
        assert (each.flip_horizontal, each.flip_vertical) == (params.flip_horizontal, params.flip_vertical)
        assert (each.mixup, each.cutmix) == (0, 0)
        assert Augmentation(**each.model_dump()) == each  # within the ranges of the section
    assert strong.crop_scale[0] < params.crop_scale[0]
    assert strong.rotate > params.rotate


def test_unlabelled_images_are_those_of_training_alone(table: ImageTable) -> None:
    rows = table.rows
    fewer = relabelled(table, (rows["split"] != "unlabeled") & (rows["label"] == 0), -1)
    chosen = fewer.rows.loc[unlabelled_index(fewer)]
    assert set(chosen["split"]) == {"train", "unlabeled"}
    assert (chosen["label"] < 0).all()
    assert len(chosen) > len(unlabelled_index(table)) > 0


def test_it_trains_and_reports_the_confident_share(table: ImageTable, tmp_path: Path) -> None:
    model, history = trained(table, tmp_path)
    assert not same(model, classifier(table))
    assert all(0 <= row["confident"] <= 1 for row in history)
    assert {"label_loss", "unlabelled_loss", "val_accuracy", "train_accuracy"} <= history[0].keys()


def test_the_average_of_the_weights_is_kept(table: ImageTable, tmp_path: Path) -> None:
    blind = relabelled(table, table.rows["split"] == "val", -1)  # the last epoch is kept
    model, _ = trained(blind, tmp_path)
    state = torch.load(tmp_path / "semi_supervised.pt", weights_only=True)
    averages = state["average"]["averages"]
    assert all(torch.equal(averages[name], weight) for name, weight in model.named_parameters())
    assert not torch.equal(state["model"]["head.weight"], model.head.weight)


def test_killed_after_an_epoch_it_ends_with_the_same_weights(table: ImageTable, tmp_path: Path) -> None:
    whole, history = trained(table, tmp_path / "whole")
    resumed, again = killed_and_resumed(lambda work: trained(table, work), tmp_path / "killed", after=1)
    assert same(whole, resumed)
    assert [row["loss"] for row in again] == [row["loss"] for row in history]


def test_labels_that_must_stay_hidden_make_no_difference(table: ImageTable, tmp_path: Path) -> None:
    swapped = relabelled(table, table.rows["split"].isin(["test", "unlabeled"]), 0)
    assert same(trained(table, tmp_path / "a")[0], trained(swapped, tmp_path / "b")[0])


def test_without_unlabelled_images_the_folder_is_named(table: ImageTable, tmp_path: Path) -> None:
    kept = dataclasses.replace(table, rows=table.rows[table.rows["split"] != "unlabeled"])
    with pytest.raises(GraftError, match=r"no unlabelled image\n.*data/target/unlabeled"):
        trained(kept, tmp_path)
    one = dataclasses.replace(kept, rows=kept.rows.assign(domain=""), domains=("",))
    with pytest.raises(GraftError, match=r"put them in data/unlabeled"):
        trained(one, tmp_path)


def test_without_labelled_images_the_folder_is_named(table: ImageTable, tmp_path: Path) -> None:
    blind = relabelled(table, table.rows["split"] == "train", -1)
    with pytest.raises(GraftError, match=r"no training image has a label\n.*data/target/train"):
        trained(blind, tmp_path)
