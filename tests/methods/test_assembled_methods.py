"""The methods that make a network from networks, and the probes' step, on images."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from graft.backbones.classifier import Classifier, load_classifier, save_classifier
from graft.backbones.structures import layered
from graft.backbones.trunk import build, save_backbone
from graft.errors import GraftError
from graft.files import read_json
from graft.images.augmentation import policy
from graft.images.preprocessing import Preprocessing
from graft.images.table import ImageTable
from graft.methods.combine import combine
from graft.methods.hybrid import hybrid
from graft.methods.recolouring import recolour
from graft.params import Augmentation, Combine, FineTuning, Hybrid, Network
from graft.steps import feature_extraction

TUNING = FineTuning(epochs=1, head_epochs=1, batch_size=16, weight_decay=0.0)
OTHER = Network(name="digits_cnn", weights="random")


def classifier(table: ImageTable, name: str = "digits_cnn", side: int = 32) -> Classifier:
    trunk, config = build(name, preprocessing=Preprocessing(input_size=side, resize_size=side))
    head = nn.Linear(config.num_features, len(table.classes))
    return Classifier(trunk, head, config=config, classes=table.classes)


def swapped(table: ImageTable) -> ImageTable:
    rows = table.rows.copy()
    rows.loc[rows["split"] == "test", "label"] = 0
    return dataclasses.replace(table, rows=rows)


def test_a_hybrid_learns_mostly_what_is_new(table: ImageTable, tmp_path: Path) -> None:
    model = classifier(table, "squeezenet1_1")
    before = {name: tensor.clone() for name, tensor in model.trunk.network.features.state_dict().items()}
    params = TUNING.model_copy(update={"hybrid": Hybrid(drop=6, blocks="residual", count=1, width=16)})
    drawn = policy(Augmentation(), model.config.preprocessing)
    made, history = hybrid(table, model, drawn, params, work=tmp_path)
    assert [row["phase"] for row in history] == ["hybrid"]
    kept = made.trunk.network.kept.state_dict()
    assert any(not torch.equal(kept[name], before[name]) for name in kept)
    save_classifier(made, tmp_path / "m", method="hybrid")
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    same = load_classifier(tmp_path / "m").predict_pixels(pixels)
    assert np.allclose(same, made.predict_pixels(pixels), atol=1e-5)


@pytest.mark.parametrize("joint", [False, True])
def test_combined_networks(table: ImageTable, tmp_path: Path, joint: bool) -> None:
    """Frozen, no trunk moves; jointly, all do; neither looks at the test split."""
    found = []
    for number, each in enumerate((table, swapped(table))):
        params = TUNING.model_copy(update={"combine": Combine(networks=(OTHER,), joint=joint)})
        model = classifier(each)
        model.trunk, model.config = layered(model.trunk, model.config, ["block2"])  # as a probe may have
        before = model.trunk.network.network.block1[0].weight.clone()
        drawn = policy(Augmentation(), model.config.preprocessing)
        made, history = combine(each, model, drawn, params, work=tmp_path / str(number))
        assert made.config.num_features == 256
        assert {row["phase"] for row in history} == ({"frozen", "fusion"} if joint else {"frozen"})
        after = made.trunk.network.parts[0].trunk.network.block1[0].weight
        assert torch.equal(before, after) != joint
        found.append(made.state_dict())
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_combining_nothing_says_what_to_set(table: ImageTable, tmp_path: Path) -> None:
    model = classifier(table)
    drawn = policy(Augmentation(), model.config.preprocessing)
    with pytest.raises(GraftError, match=r"combine.networks is empty\n.*name one network"):
        combine(table, model, drawn, TUNING, work=tmp_path)


def test_recoloured_features_have_the_targets_covariance() -> None:
    rng = np.random.default_rng(0)
    source = rng.normal(size=(4000, 4)) @ (np.eye(4) + 0.3 * rng.normal(size=(4, 4))) * 20
    target = rng.normal(size=(4000, 4)) @ (np.eye(4) + 0.3 * rng.normal(size=(4, 4))) * 20 + 3
    made = recolour(source, target)
    assert made.mean(0) == pytest.approx(target.mean(0))
    scale = np.abs(np.cov(target.T)).max()
    assert np.cov(made.T) == pytest.approx(np.cov(target.T), abs=0.02 * scale)


SECTIONS: dict[str, dict[str, object]] = {
    "logistic": {"layers": ["block1", "block3"]},
    "svm": {},
    "neighbours": {"neighbours": 3},
    "dense": {"epochs": 2, "hidden": 8},
    "recurrent": {"epochs": 2, "hidden": 8, "layers": ["block3"]},
}


@pytest.mark.parametrize("head", SECTIONS)
def test_the_step_fits_each_head_without_the_test_split(
    table: ImageTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: str
) -> None:
    save_backbone(*build("digits_cnn"), tmp_path / "network")
    section = {"head": head, "views": False, "path": 3, **SECTIONS[head]}
    digests = []
    for number, each in enumerate((table, swapped(table))):
        monkeypatch.setattr(feature_extraction, "read_table", lambda _folder, each=each: each)
        out = tmp_path / str(number)
        feature_extraction.run(
            feature_extraction=section,
            images=Path(table.path),
            views=tmp_path / "none",
            network=tmp_path / "network",
            features=out / "features",
            probe=out / "probe",
        )
        digests.append(read_json(out / "probe" / "model.json")["weights_sha256"])
    assert digests[0] == digests[1]
    model = load_classifier(out / "probe")
    assert model.predict_pixels(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)).shape == (1, 3)
    assert read_json(out / "probe" / "model.json")["head"].get("kind", "linear") in (head, "linear")
