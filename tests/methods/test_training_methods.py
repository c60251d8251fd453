import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from graft.backbones.classifier import Classifier
from graft.backbones.trunk import build
from graft.images.augmentation import Policy, policy
from graft.images.loading import load_images
from graft.images.table import ImageTable
from graft.methods import train
from graft.methods.fine_tune import fine_tune
from graft.methods.pretrain import pretrain
from graft.methods.scratch import scratch
from graft.params import Augmentation, FineTuning, Pretrain
from graft.training.supervised import domain_batches, draw, labelled_index, validation_index

PARAMS = FineTuning(head_epochs=1, epochs=2, batch_size=16, baseline_epochs=2)


def classifier(table: ImageTable, name: str = "digits_cnn") -> Classifier:
    trunk, config = build(name, seed=0)
    torch.manual_seed(0)
    head = nn.Linear(config.num_features, len(table.classes))
    return Classifier(trunk, head, config=config, classes=table.classes)


def drawn(model: Classifier) -> Policy:
    return policy(Augmentation(), model.config.preprocessing)


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_the_same_seed_gives_the_same_model(table: ImageTable, tmp_path: Path) -> None:
    models = [classifier(table), classifier(table)]
    for number, model in enumerate(models):
        torch.manual_seed(number)  # whatever ran before must not matter
        fine_tune(table, model, drawn(model), PARAMS, work=tmp_path / str(number))
    assert all(torch.equal(a, b) for a, b in zip(*(state(m).values() for m in models), strict=True))


OWN = ["head_only", "last_k", "all", "head_then_all", "staged", "normalisation", "gradual", "lora", "scratch"]


def relabelled(table: ImageTable, split: str) -> ImageTable:
    rows = table.rows.copy()
    rows.loc[rows["split"] == split, "label"] = (rows.loc[rows["split"] == split, "label"] + 1) % 3
    return dataclasses.replace(table, rows=rows)


@pytest.mark.parametrize("method", OWN)
def test_nothing_learns_from_the_test_split(table: ImageTable, tmp_path: Path, method: str) -> None:
    """With every test label changed, each method finds the same model; with training labels, another."""
    # A seed of which no method keeps the start, the best on six validation images by chance.
    params = FineTuning(
        method=method, head_epochs=1, epochs=1, batch_size=48, baseline_epochs=1, learning_rate=0.003, seed=1
    )
    found = []
    for number, each in enumerate((table, relabelled(table, "test"), relabelled(table, "train"))):
        model = classifier(each, "timm/test_vit" if method == "lora" else "digits_cnn")
        found.append(state(train(each, model, drawn(model), params, work=tmp_path / str(number))[0]))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert any(not torch.equal(found[0][name], found[2][name]) for name in found[0])


def test_pretraining_does_not_learn_from_the_test_split(table: ImageTable, tmp_path: Path) -> None:
    found = []
    for number, each in enumerate((table, relabelled(table, "test"))):
        trunk, config = build("digits_cnn", seed=0)
        trained, _ = pretrain(each, trunk, config, Pretrain(epochs=1), seed=0, work=tmp_path / str(number))
        assert trained is trunk
        found.append(state(trained))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_scratch_knows_nothing_of_the_source(table: ImageTable, tmp_path: Path) -> None:
    """Training from scratch gives the same model when the source's images are gone."""
    rows = table.rows.copy()
    rows.loc[(rows["domain"] == "source") & (rows["split"] == "train"), "split"] = "elsewhere"
    without = dataclasses.replace(table, rows=rows)
    model = classifier(table)
    first, _ = scratch(table, model, drawn(model), PARAMS, work=tmp_path / "with")
    second, _ = scratch(without, model, drawn(model), PARAMS, work=tmp_path / "without")
    assert all(torch.equal(a, b) for a, b in zip(state(first).values(), state(second).values(), strict=True))


def test_each_domain_has_an_equal_share_of_a_batch(table: ImageTable) -> None:
    model = classifier(table)
    preprocessing = model.config.preprocessing
    index = labelled_index(table, "train")
    streams = domain_batches(table, index, preprocessing, None, batch_size=16, seed=0)
    inputs, targets = draw(streams, step=0)
    assert [stream.batch_size for stream in streams] == [8, 8]
    assert inputs.shape == (16, 3, 32, 32)
    assert torch.equal(targets.sum(1), torch.ones(16))
    sources = set(streams[0].images.rows["domain"]), set(streams[1].images.rows["domain"])
    assert sources == ({"source"}, {"target"})


def test_validation_is_the_targets(table: ImageTable) -> None:
    assert set(table.rows.loc[validation_index(table), "domain"]) == {"target"}


def test_without_validation_images_the_last_epoch_is_kept(table: ImageTable, tmp_path: Path) -> None:
    without = dataclasses.replace(table, rows=table.rows[table.rows["split"] != "val"])
    assert not len(validation_index(without))
    model = classifier(without)
    _, history = fine_tune(without, model, drawn(model), PARAMS, work=tmp_path)
    assert len(history) == 3
    kept = torch.load(tmp_path / "all.pt", weights_only=True)["model"]
    assert all(torch.equal(kept[name], tensor) for name, tensor in state(model).items())


def test_pretraining_learns_the_source(table: ImageTable, tmp_path: Path) -> None:
    trunk, config = build("digits_cnn", seed=0)
    params = Pretrain(epochs=10, batch_size=16, learning_rate=0.003)
    _, history = pretrain(table, trunk, config, params, seed=0, work=tmp_path)
    assert max(row["val_accuracy"] for row in history) > 0.8
    images = load_images(table, labelled_index(table, "val", "source"), config.preprocessing)
    assert len(images) > 0
