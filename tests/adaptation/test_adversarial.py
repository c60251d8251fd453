import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from graft.adaptation.dann import Adversary, GradientReversal, dann, dann_loss
from graft.adaptation.target import tune_on_target
from graft.backbones.classifier import Classifier
from graft.backbones.trunk import build
from graft.errors import GraftError
from graft.images.augmentation import policy
from graft.images.table import ImageTable
from graft.params import Augmentation, DomainAdaptation
from graft.training.schedules import reversal
from graft.training.supervised import domain_batches, labelled_index

PARAMS = DomainAdaptation(epochs=2, batch_size=8, target_epochs=1)


def classifier(table: ImageTable) -> Classifier:
    trunk, config = build("digits_cnn", seed=0)
    torch.manual_seed(0)
    head = nn.Linear(config.num_features, len(table.classes))
    return Classifier(trunk, head, config=config, classes=table.classes)


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_gradient_reversal_is_the_written_out_gradient(strength: float) -> None:
    """d/dx of R(x)^2 / 2 is x forward-wise, so -lambda x arrives."""
    x = torch.tensor([[1.0, -2.0, 3.0]], requires_grad=True)
    y = GradientReversal.apply(x, strength)
    assert torch.equal(y, x)
    (y.square().sum() / 2).backward()
    assert torch.equal(x.grad, -strength * x.detach())


def loss_of(table: ImageTable, model: Classifier, adversary: Adversary):
    preprocessing = model.config.preprocessing
    streams = [
        domain_batches(table, index, preprocessing, None, batch_size=8, seed=seed)[0]
        for seed, index in enumerate(
            [
                labelled_index(table, "train", "source"),
                table.select(split=["train", "unlabeled"], domain="target"),
                labelled_index(table, "train", "target"),
            ]
        )
    ]
    return dann_loss(adversary, *streams, steps=10, max_lambda=1.0)


def test_the_features_climb_what_the_domain_classifier_descends(table: ImageTable) -> None:
    """With dL/df = g from the domain term alone, the trunk receives -lambda g."""
    model = classifier(table).eval()
    adversary = Adversary(model).eval()
    weight = model.trunk.network.block1[0].weight

    def gradients(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        adversary.zero_grad()
        _, logs = loss_of(table, model, adversary)(step)
        value, _ = loss_of(table, model, adversary)(step)
        value.backward()
        assert logs["lambda"] == reversal(step / 10)
        return weight.grad.clone(), adversary.domain[0].weight.grad.clone()

    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.zero_()  # the label term then has no gradient in the features
    still, domain_still = gradients(step=0)
    assert torch.count_nonzero(still) == 0  # lambda is 0 at the start
    assert torch.count_nonzero(domain_still) > 0
    assert torch.count_nonzero(gradients(step=9)[0]) > 0


def test_labels_of_unlabelled_images_are_not_looked_at(table: ImageTable) -> None:
    rows = table.rows.copy()
    rows.loc[rows["split"] == "unlabeled", "label"] = 2
    model = classifier(table).eval()
    adversary = Adversary(model).eval()
    value, _ = loss_of(table, model, adversary)(3)
    other, _ = loss_of(dataclasses.replace(table, rows=rows), model, adversary)(3)
    assert torch.equal(value, other)


def test_dann_trains_and_reports_its_domain_terms(table: ImageTable, tmp_path: Path) -> None:
    model = classifier(table)
    drawn = policy(Augmentation(mixup=0.4), model.config.preprocessing)
    adapted, history = dann(table, model, drawn, PARAMS, work=tmp_path)
    adapted, more = tune_on_target(table, adapted, drawn, PARAMS, work=tmp_path)
    assert adapted is model
    assert [row["phase"] for row in history + more] == ["adapt", "adapt", "target"]
    assert {"domain_loss", "domain_accuracy", "lambda", "label_loss", "val_accuracy"} <= set(history[0])
    assert not any(name.startswith("domain") for name in model.state_dict())


def test_adaptation_without_target_labels_still_adapts(table: ImageTable, tmp_path: Path) -> None:
    rows = table.rows.copy()
    rows.loc[(rows["domain"] == "target") & (rows["split"] != "test"), "label"] = -1
    blind = dataclasses.replace(table, rows=rows)
    model = classifier(table)
    drawn = policy(Augmentation(), model.config.preprocessing)
    _, history = dann(blind, model, drawn, PARAMS, work=tmp_path)
    assert len(history) == 2
    assert tune_on_target(blind, model, drawn, PARAMS, work=tmp_path)[1] == []


def test_without_source_images_the_fix_is_named(table: ImageTable, tmp_path: Path) -> None:
    rows = table.rows.copy()
    rows.loc[rows["domain"] == "source", "label"] = -1
    model = classifier(table)
    drawn = policy(Augmentation(), model.config.preprocessing)
    with pytest.raises(GraftError, match=r"needs labelled source images.*\n.*data/source/train"):
        dann(dataclasses.replace(table, rows=rows), model, drawn, PARAMS, work=tmp_path)
