"""What holds for every method that trains no network."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from graft.adaptation.frozen import Alignment, both, folded, load_features, standards
from graft.backbones.classifier import Classifier, load_classifier, save_classifier
from graft.errors import GraftError
from graft.images.table import ImageTable
from graft.methods.linear_path import Space
from graft.params import DomainAdaptation
from tests.adaptation.shifts import blind, labelled_unlabelled, other_test_labels
from tests.methods.learning import classifier, relabelled, same

Method = Callable[[ImageTable, Classifier, DomainAdaptation], tuple[Classifier, list[dict[str, Any]]]]

PARAMS = DomainAdaptation(batch_size=8)


@pytest.fixture(scope="module", params=["subspace", "coral", "pace", "adabn"])
def method(request: pytest.FixtureRequest) -> Method:
    found: Method = getattr(importlib.import_module(f"graft.adaptation.{request.param}"), request.param)
    return found


@pytest.fixture(scope="module")
def adapted(method: Method, table: ImageTable) -> Classifier:
    return method(table, classifier(table), PARAMS)[0]


@pytest.mark.parametrize("change", [other_test_labels, labelled_unlabelled])
def test_labels_that_must_not_be_seen_change_nothing(
    method: Method, adapted: Classifier, table: ImageTable, change: Callable[[ImageTable], ImageTable]
) -> None:
    assert same(method(change(table), classifier(table), PARAMS)[0], adapted)


def test_the_result_is_stored_as_any_classifier(
    method: Method, adapted: Classifier, table: ImageTable, tmp_path: Path
) -> None:
    save_classifier(adapted, tmp_path, method="x")
    loaded = load_classifier(tmp_path)
    assert same(loaded, adapted)
    assert isinstance(loaded.head, nn.Linear)
    pixels = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    assert np.allclose(loaded.predict_pixels(pixels), adapted.predict_pixels(pixels), atol=1e-6)


def test_a_target_without_labels_suffices(method: Method, table: ImageTable) -> None:
    made, rows = method(blind(table), classifier(table), PARAMS)
    assert all(torch.isfinite(tensor).all() for tensor in made.state_dict().values())
    assert {row["phase"] for row in rows} == {method.__name__}


def test_without_source_labels_the_fix_is_named(method: Method, table: ImageTable) -> None:
    unlabelled = relabelled(table, table.rows["domain"] == "source", -1)
    with pytest.raises(GraftError, match=r"needs labelled source images.*\n.*data/source/train"):
        method(unlabelled, classifier(table), PARAMS)


def test_one_target_image_is_too_few(method: Method, table: ImageTable) -> None:
    few = blind(table)
    target = few.select(split=["train", "unlabeled"], domain="target")
    few.rows.loc[target[1:], "leak"] = True
    with pytest.raises(GraftError, match=r"target has one image.*\n.*data/target/unlabeled"):
        method(few, classifier(table), PARAMS)


def test_the_features_come_from_the_images_that_may_be_seen(table: ImageTable) -> None:
    model = classifier(table)
    known = load_features(table, model.trunk, model.config)
    rows = table.rows
    counts = rows.groupby(["domain", "split"]).size()
    assert len(known.source) == counts["source", "train"]
    assert len(known.target) == counts["target", "train"] + counts["target", "unlabeled"]
    assert (known.target_labels >= 0).sum() == counts["target", "train"]
    assert known.val_of_target == (("target", "val") in counts)


def test_a_feature_that_one_domain_lacks_is_left_out() -> None:
    rng = np.random.default_rng(0)
    source, target = rng.normal(size=(50, 3)), rng.normal(size=(40, 3)) * 7 + 5
    target[:, 1] = 2.0
    own, other = standards(source, target)
    assert own(source)[:, [0, 2]].std(0) == pytest.approx(1)
    assert other(target)[:, [0, 2]].std(0) == pytest.approx(1)
    assert not own(source)[:, 1].any()
    head = folded(nn.Linear(3, 2), other)
    assert not head.weight[:, 1].any()  # an image that does have it is answered as if it had not


@pytest.mark.parametrize("width", [None, 2])
def test_a_folded_head_gives_the_unfolded_logits(width: int | None) -> None:
    rng = np.random.default_rng(1)
    features = (rng.normal(size=(60, 5)) * [1, 20, 0.1, 3, 1] + 10).astype(np.float32)
    basis = None if width is None else np.linalg.qr(rng.normal(size=(5, width)))[0].astype(np.float32)
    space = Space(features.mean(0), features.std(0), basis)
    head = nn.Linear(width or 5, 3)
    with torch.no_grad():
        written = head(torch.from_numpy(Alignment(space, space).target(features)))
        assert torch.allclose(folded(head, space)(torch.from_numpy(features)), written, atol=1e-4)


def test_both_domains_weigh_the_same() -> None:
    features, labels = np.zeros((10, 2), np.float32), np.zeros(10, np.int64)
    joined = both(features, labels, features[:3], labels[:3])
    assert joined.weights[:10].sum() == pytest.approx(joined.weights[10:].sum())
    assert joined.scored is not None
    assert joined.scored.tolist() == [False] * 10 + [True] * 3
    assert both(features, labels, features[:0], labels[:0]).scored is None
