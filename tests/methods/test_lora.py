import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graft.backbones.classifier import Classifier, load_classifier, save_classifier
from graft.errors import GraftError
from graft.images.augmentation import policy
from graft.images.table import ImageTable
from graft.methods import train
from graft.methods.lora import adapt, adaptable_weights, merge
from graft.params import Augmentation, FineTuning
from graft.params.sections import Lora
from graft.training.loop import History

Learner = Callable[..., Classifier]

TINY = "timm/test_vit"


def taught(table: ImageTable, model: Classifier, work: Path, **settings: Any) -> tuple[Classifier, History]:
    given = {"method": "lora", "epochs": 2, "batch_size": 32, "learning_rate": 0.001, **settings}
    drawn = policy(Augmentation(), model.config.preprocessing)
    return train(table, model, drawn, FineTuning(**given), work=work)


def state(model: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(dict(model.state_dict()))


def attending(model: Classifier) -> None:
    """Put torch's own attention, as torchvision's transformers have it, into a small trunk."""
    from torchvision.models.vision_transformer import VisionTransformer

    network = VisionTransformer(32, 8, 2, 2, 128, 64, num_classes=3)
    network.heads = nn.Identity()
    model.trunk.network = network


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_only_adapters_and_head_learn_and_merging_changes_no_prediction(
    library: str, learner: Learner
) -> None:
    model = learner(TINY if library == "timm" else "digits_cnn")
    if library == "torchvision":
        attending(model)
    before = state(model)
    weights = adaptable_weights(model, Lora())
    kinds = {"timm": {"qkv", "proj", "fc1", "fc2"}, "torchvision": {"0", "3", "self_attention"}}[library]
    assert {name.split(".")[-2] for name in weights} == kinds
    adapters = adapt(model, weights, Lora(rank=4), seed=0)
    learning = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert len(learning) == 2 * len(weights) + 2
    assert all(".lora_" in name or name.startswith("head.") for name in learning)

    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 0.01)
    side = model.config.preprocessing.input_size
    torch.manual_seed(0)
    images, labels = torch.randn(4, 3, side, side), torch.tensor([0, 1, 2, 0])
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model.train()(images), labels).backward()
        optimizer.step()
    adapted = {name.replace(".base_layer", ""): tensor for name, tensor in state(model).items()}
    base = {name: tensor for name, tensor in before.items() if name.startswith("trunk.")}
    assert all(torch.equal(adapted[name], tensor) for name, tensor in base.items())

    with torch.no_grad():
        expected = model.eval()(images)
        merge(model, adapters)
        merged = model.eval()(images)
    assert torch.allclose(expected, merged, atol=1e-5)
    after = state(model)
    assert after.keys() == before.keys()
    changed = {name for name in base if not torch.equal(before[name], after[name])}
    assert changed == {f"trunk.{name}" for name in weights}
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_dropout_of_the_adapters_is_on_in_training_only(learner: Learner) -> None:
    model = learner(TINY)
    by = Lora(dropout=0.5)
    adapt(model, adaptable_weights(model, by), by, seed=0)
    for name, parameter in model.named_parameters():
        if ".lora_B" in name:
            nn.init.ones_(parameter)
    images = torch.randn(2, 3, 160, 160)
    assert not torch.equal(model.train()(images), model(images))
    assert torch.equal(model.eval()(images), model(images))


def test_a_killed_run_goes_on_and_gives_an_ordinary_classifier(
    table: ImageTable, learner: Learner, tmp_path: Path
) -> None:
    settings = {"layer_decay": 0.9, "interpolation": 0.8, "lora": {"rank": 2, "dropout": 0.1}}
    whole, history = taught(table, learner(TINY), tmp_path / "whole", **settings)
    killed, count = learner(TINY), 0

    def stop(*_: object) -> None:
        nonlocal count
        count += 1
        if count == 7:
            raise KeyboardInterrupt

    killed.head.register_forward_pre_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        taught(table, killed, tmp_path / "killed", **settings)
    resumed, rest = taught(table, learner(TINY), tmp_path / "killed", **settings)
    assert [row["phase"] for row in history] == ["lora"] * 2
    assert [row["loss"] for row in rest] == [row["loss"] for row in history]
    assert all(torch.equal(tensor, resumed.state_dict()[name]) for name, tensor in state(whole).items())
    save_classifier(resumed, tmp_path / "model", method="lora")
    stored = load_classifier(tmp_path / "model")
    assert all(torch.equal(tensor, stored.state_dict()[name]) for name, tensor in state(whole).items())


@pytest.mark.parametrize("name", ["digits_cnn", "resnet18", "timm/convnext_atto"])
def test_a_convolutional_network_is_refused_by_name(name: str, learner: Learner) -> None:
    with pytest.raises(GraftError, match=f"{name} is a convolutional network\n  fix: choose another method"):
        adaptable_weights(learner(name), Lora())


def test_a_pull_towards_weights_that_never_move_is_refused(
    table: ImageTable, learner: Learner, tmp_path: Path
) -> None:
    with pytest.raises(GraftError, match=r"l2_sp = 0.1, but lora"):
        taught(table, learner(TINY), tmp_path, l2_sp=0.1)
