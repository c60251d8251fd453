"""Heads: stored and read back, and what each computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from graft.backbones.classifier import Classifier, load_classifier, save_classifier
from graft.backbones.heads import DenseHead, Head, NeighboursHead, RecurrentHead, describe, make_head
from graft.backbones.trunk import build
from graft.errors import GraftError
from graft.files import read_json, write_json

F, C = 128, 3


def neighbours(count: int = 30, k: int = 5) -> NeighboursHead:
    head = NeighboursHead(F, C, bank=count, neighbours=k)
    head.store(torch.randn(count, F), torch.arange(count) % C)
    return head


HEADS = {
    "linear": lambda: nn.Linear(F, C),
    "linear without bias": lambda: nn.Linear(F, C, bias=False),
    "dense": lambda: DenseHead(F, C, hidden=7, dropout=0.3),
    "recurrent": lambda: RecurrentHead(F, C, positions=16, hidden=7, dropout=0.3),
    "recurrent, last": lambda: RecurrentHead(F, C, positions=4, hidden=7, dropout=0.0, read="last"),
    "neighbours": neighbours,
}


@pytest.mark.parametrize("name", HEADS)
def test_a_classifier_with_any_head_round_trips(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    trunk, config = build("digits_cnn", seed=1)
    head: Head = HEADS[name]()
    model = Classifier(trunk, head, config=config, classes=("a", "b", "c"))
    pixels = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    save_classifier(model, tmp_path / "m", method="probe")
    loaded = load_classifier(tmp_path / "m")
    probabilities = model.predict_pixels(pixels)
    assert np.array_equal(loaded.predict_pixels(pixels), probabilities)
    assert probabilities.sum(1) == pytest.approx(np.ones(5), abs=1e-5)
    assert describe(loaded.head) == describe(head)
    assert loaded.device == torch.device("cpu")


def test_models_of_the_earlier_format_load(tmp_path: Path) -> None:
    """A linear head is described as it always was, and nothing speaks of structure."""
    trunk, config = build("digits_cnn")
    model = Classifier(trunk, nn.Linear(F, C), config=config, classes=("a", "b", "c"))
    save_classifier(model, tmp_path, method="probe")
    values = read_json(tmp_path / "model.json")
    assert values["head"] == {"in_features": F, "bias": True}
    assert sorted(values["backbone"]) == [
        "name", "num_features", "preprocessing", "provider", "sha256", "weights"
    ]  # fmt: skip
    assert set(load_classifier(tmp_path).state_dict()) == set(model.state_dict())


@pytest.mark.parametrize(
    "head", [{"kind": "oracle", "in_features": F}, {"kind": "dense", "in_features": F}, {"bias": True}]
)
def test_an_unknown_head_is_named(head: dict[str, object], tmp_path: Path) -> None:
    trunk, config = build("digits_cnn")
    model = Classifier(trunk, nn.Linear(F, C), config=config, classes=("a", "b", "c"))
    save_classifier(model, tmp_path, method="probe")
    write_json(tmp_path / "model.json", {**read_json(tmp_path / "model.json"), "head": head})
    with pytest.raises(GraftError, match="a head that this graft does not have"):
        load_classifier(tmp_path)


def test_a_recurrent_head_reads_positions_in_turn() -> None:
    head = RecurrentHead(12, 2, positions=4, hidden=5, dropout=0.0, read="last").eval()
    x = torch.randn(3, 12)
    changed = x.clone()
    changed[:, :3] += 1  # the first position
    states, _ = head.gru(x.reshape(3, 4, 3))
    assert torch.allclose(head(x), head.output(states[:, -1]), atol=1e-6)
    assert not torch.allclose(head(x), head(changed))
    with pytest.raises(ValueError, match="12 features are not 5 positions"):
        RecurrentHead(12, 2, positions=5, hidden=5, dropout=0.0)


def test_neighbours_vote_by_similarity() -> None:
    from sklearn.neighbors import KNeighborsClassifier

    torch.manual_seed(0)
    bank, labels, x = torch.randn(40, F), torch.arange(40) % C, torch.randn(20, F)
    head = NeighboursHead(F, C, bank=40, neighbours=7)
    head.store(bank, labels)
    reference = KNeighborsClassifier(
        7, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / 0.07)
    ).fit(bank.numpy(), labels.numpy())
    wanted = reference.predict_proba(x.numpy())
    assert head(x).softmax(1).numpy() == pytest.approx(wanted, abs=1e-4)


def test_more_neighbours_than_are_stored() -> None:
    assert torch.isfinite(neighbours(count=3, k=20)(torch.randn(2, F))).all()


def test_make_head_does_not_change_its_argument() -> None:
    described = describe(HEADS["dense"]())
    make_head(described, C)
    assert described["kind"] == "dense"
