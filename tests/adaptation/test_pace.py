from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graft.adaptation.frozen import fit_aligned
from graft.adaptation.pace import pace, pseudo_labelling, surest
from graft.backbones.classifier import load_classifier, save_classifier
from graft.images.loading import load_images
from graft.images.table import ImageTable
from graft.params import DomainAdaptation, Network
from graft.params.sections import Pace
from tests.adaptation.shifts import accuracy, blind, seen, unaligned
from tests.methods.learning import classifier, same

OTHER = Network(name="digits_cnn", weights="random")


def triangle(seed: int, degrees: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Three classes at the corners of a triangle, turned."""
    rng, angle = np.random.default_rng(seed), np.radians(degrees)
    labels = rng.permutation(np.arange(240) % 3)
    corners = np.radians(120 * labels)
    points = np.stack([np.cos(corners), np.sin(corners)], 1) + 0.2 * rng.normal(size=(240, 2))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return points @ turn, labels


def moved() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    source, labels = triangle(0)
    target, target_labels = triangle(1, degrees=45)
    return source, labels, target * [3, 0.5] + [4, -2], target_labels


def test_rounds_follow_what_alignment_leaves() -> None:
    """A turn of round data changes no covariance: alignment undoes shift and scale, pseudo-labels it."""
    source, labels, target, target_labels = moved()
    known = seen(source, labels, target)
    assert accuracy(fit_aligned(known, unaligned(known), 3, 0)[0], target, target_labels) < 0.6
    head, rows = pseudo_labelling(known, 3, rounds=6, seed=0)
    assert accuracy(head, target, target_labels) > 0.95
    added = [row["pseudo_labels"] for row in rows if row["round"]]
    assert added == sorted(added)
    assert added[0] < 240 / 5
    assert added[-1] == 240


@pytest.mark.parametrize(("known", "added"), [(240, []), (120, [40, 80, 120])])
def test_only_images_without_a_label_get_one(known: int, added: list[int]) -> None:
    source, labels = triangle(0)
    target, target_labels = triangle(1)
    given_labels = np.where(np.arange(240) < known, target_labels, -1)
    _, rows = pseudo_labelling(seen(source, labels, target, given_labels), 3, rounds=3, seed=0)
    assert [row["pseudo_labels"] for row in rows if row["round"]] == pytest.approx(added, abs=2)


def test_known_labels_are_never_replaced() -> None:
    """Of class 0 a third is known as class 1: the answer to such images stays that unsure."""
    source, labels = triangle(0)
    target, target_labels = triangle(1)
    noisy = np.where((target_labels == 0) & (np.arange(240) % 3 == 0), 1, target_labels)
    known = seen(source, labels, target, np.where(np.arange(240) % 10 > 0, noisy, -1))
    head, _ = pseudo_labelling(known, 3, rounds=3, seed=0)
    with torch.no_grad():
        answers = head(torch.from_numpy(known.target[target_labels == 0])).softmax(1)
    assert answers.argmax(1).float().mean() < 0.1
    assert 0.1 < answers[:, 1].mean() < 0.25  # 1/3 in the target, 0 in the source, which weighs the same


def test_true_labels_outweigh_what_the_source_says() -> None:
    """A turn of half the way to the next class: which way it went, a few labels tell."""
    source, labels = triangle(0)
    target, target_labels = triangle(1, degrees=60)
    rng = np.random.default_rng(0)
    few = np.where(np.isin(np.arange(240), rng.choice(240, 12, replace=False)), target_labels, -1)
    without, _ = pseudo_labelling(seen(source, labels, target), 3, rounds=3, seed=0)
    with_few, _ = pseudo_labelling(seen(source, labels, target, few), 3, rounds=3, seed=0)
    assert accuracy(with_few, target, target_labels) > 0.95 > accuracy(without, target, target_labels)


def test_equal_domains_are_answered_as_before() -> None:
    source, labels = triangle(0)
    head, _ = pseudo_labelling(seen(source, labels, source), 3, rounds=3, seed=0)
    known = seen(source, labels, source)
    plain, _ = fit_aligned(known, unaligned(known), 3, 0)
    assert abs(accuracy(head, source, labels) - accuracy(plain, source, labels)) < 0.01


@given(seed=st.integers(0, 1000), count=st.integers(1, 40), share=st.sampled_from([0.01, 0.2, 0.5, 0.8, 1.0]))
def test_the_surest_of_each_class(seed: int, count: int, share: float) -> None:
    logits = np.random.default_rng(seed).normal(size=(count, 4)) * 5
    chosen, answers = surest(logits, share), logits.argmax(1)
    sureness = torch.from_numpy(logits).softmax(1).amax(1).numpy()
    for answer in np.unique(answers):
        given_it = answers == answer
        assert chosen[given_it].sum() == np.ceil(share * given_it.sum())
        left = sureness[given_it & ~chosen]
        assert not len(left) or left.max() <= sureness[given_it & chosen].min()


@pytest.mark.usefixtures("float32")
def test_several_networks_become_one_trunk(table: ImageTable, tmp_path: Path) -> None:
    params = DomainAdaptation(pace=Pace(networks=(OTHER,), rounds=2))
    model = classifier(table)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    made, rows = pace(blind(table), model, params)
    assert made.config.structure is not None
    assert made.config.structure["kind"] == "combined"
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [row["round"] for row in rows if row["round"]] == [1, 2]
    save_classifier(made, tmp_path, method="pace")
    assert same(load_classifier(tmp_path), made)

    seen_images = table.select(split="train", domain="source").append(
        table.select(split=["train", "unlabeled"], domain="target")
    )
    pixels = load_images(table, seen_images, made.config.preprocessing).pixels
    features = made.features_pixels(pixels).numpy() * np.sqrt(128)  # of each part
    varied = features.std(0) > 0.01
    assert features.mean(0) == pytest.approx(0, abs=1e-3)
    assert features.std(0)[varied] == pytest.approx(1, abs=1e-2)


@pytest.mark.usefixtures("float32")
def test_the_head_is_folded_into_the_combined_trunk(
    table: ImageTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The logits on images are those of the head that was fitted, on the features it was fitted to."""
    from graft.adaptation import pace as module

    fitted: list[tuple[np.ndarray, np.ndarray]] = []

    def spy(known, classes, rounds, seed):  # type: ignore[no-untyped-def]
        head, rows = pseudo_labelling(known, classes, rounds, seed)
        weight, bias = head.weight.detach().numpy(), head.bias.detach().numpy()
        fitted.append((known.source[:5].copy(), known.source[:5] @ weight.T + bias))
        return head, rows

    monkeypatch.setattr(module, "pseudo_labelling", spy)
    made, _ = pace(table, classifier(table), DomainAdaptation(pace=Pace(networks=(OTHER,), rounds=1)))
    index = table.select(split="train", domain="source")[:5]
    pixels = load_images(table, index, made.config.preprocessing).pixels
    with torch.no_grad():
        logits = made.head(made.features_pixels(pixels))
    assert logits.numpy() == pytest.approx(fitted[0][1], abs=1e-3)


def test_a_feature_that_the_target_lacks_has_no_weight() -> None:
    """So no image that does have it can blow up the answer."""
    source, labels = triangle(0)
    target, _ = triangle(1)
    dead = np.column_stack([target, np.full(240, 3.0)])
    alive = np.column_stack([source, np.random.default_rng(0).normal(size=240)])
    head, _ = pseudo_labelling(seen(alive, labels, dead), 3, rounds=1, seed=0)
    assert not head.weight[:, 2].any()
