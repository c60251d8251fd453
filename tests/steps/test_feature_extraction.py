"""Features are looked up by content: what is made once is not made again."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from graft.backbones.engine import cosines
from graft.backbones.precision import number_format
from graft.backbones.trunk import build, save_backbone
from graft.errors import GraftError
from graft.images.validation import validate
from graft.images.views import write_views
from graft.params import Augmentation, Data
from graft.steps import feature_extraction, feature_shard, stored_features

SECTION: dict[str, Any] = {"path": 2, "engine": "torch"}


class Chain:
    """The step on a data folder, and what it decoded."""

    def __init__(self, folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.home, self.runs = folder, home, 0
        self.decoded = {"images": 0, "views": 0}
        monkeypatch.setenv("GRAFT_HOME", str(home))
        for name, what in (("load_images", "images"), ("load_view_pixels", "views")):
            monkeypatch.setattr(stored_features, name, self._counting(name, what))
        self.network = home / "network"
        save_backbone(*build("digits_cnn"), self.network)

    def _counting(self, name: str, what: str) -> Any:
        function = getattr(stored_features, name)

        def counted(source: Any, *rest: Any) -> Any:
            self.decoded[what] += len(rest[0] if what == "images" else rest[1])
            return function(source, *rest)

        return counted

    def validate(self) -> None:
        """The image table and the views of the data folder as it is now."""
        validate(self.folder, Data(), self.home / "images", self.home / "docs")
        write_views(self.home / "images", Augmentation(), self.home / "views")

    def run(self, **section: Any) -> pd.DataFrame:
        """The features."""
        self.runs += 1
        work = self.home / f"run{self.runs}"
        self.decoded.update(images=0, views=0)
        feature_extraction.run(
            feature_extraction={**SECTION, **section},
            images=self.home / "images",
            views=self.home / "views",
            network=self.network,
            features=work / "features",
            probe=work / "probe",
        )
        return pd.read_parquet(work / "features")

    def model(self) -> dict[str, Any]:
        return json.loads((self.home / f"run{self.runs}" / "probe" / "model.json").read_text())


@pytest.fixture(scope="module")
def prepared(two_domains: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("prepared")
    validate(two_domains, Data(), home / "images", home / "docs")
    write_views(home / "images", Augmentation(), home / "views")
    return home


@pytest.fixture
def chain(two_domains: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Chain:
    folder = tmp_path / "data"
    shutil.copytree(two_domains, folder)
    made = Chain(folder, tmp_path / "home", monkeypatch)
    shutil.copytree(prepared, made.home, dirs_exist_ok=True)
    return made


def vectors(frame: pd.DataFrame) -> np.ndarray:
    return np.stack(frame["features"].to_list())


def counts(frame: pd.DataFrame) -> dict[str, int]:
    return {"images": int((frame["view"] == 0).sum()), "views": int((frame["view"] > 0).sum())}


def test_a_second_run_decodes_nothing_and_gives_the_same_bits(
    chain: Chain, capsys: pytest.CaptureFixture[str]
) -> None:
    first = chain.run()
    assert chain.decoded == counts(first)
    assert chain.decoded["views"] == 2 * (first["split"][first["view"] == 0] == "train").sum()
    weights = chain.model()["weights_sha256"]
    second = chain.run()
    assert chain.decoded == {"images": 0, "views": 0}
    pd.testing.assert_frame_equal(first.drop(columns="features"), second.drop(columns="features"))
    assert np.array_equal(vectors(first), vectors(second))
    assert chain.model()["weights_sha256"] == weights
    assert f"features of {len(first)} of {len(first)} images and views are in" in capsys.readouterr().err


def test_of_more_images_only_the_new_ones_are_decoded(chain: Chain) -> None:
    chain.run()
    added = chain.folder / "target" / "unlabeled" / "new.png"
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(image).save(added)
    Image.fromarray(255 - image).save(chain.folder / "target" / "train" / "disc" / "new.png")
    chain.validate()
    found = chain.run()
    assert chain.decoded == {"images": 2, "views": 2}
    shutil.rmtree(chain.home / "features")
    afresh = chain.run()
    assert chain.decoded == counts(afresh)
    assert cosines(vectors(found), vectors(afresh)).min() > 0.99999


def test_shards_together_make_what_one_step_makes(chain: Chain, tmp_path: Path) -> None:
    store = str(tmp_path / "shared")
    alone = chain.run()
    inputs = {"images": chain.home / "images", "views": chain.home / "views", "network": chain.network}
    section = {**SECTION, "store": store}
    for number in range(3):
        made = tmp_path / f"made{number}"
        feature_shard.run(feature_extraction=section, number=number, count=3, **inputs, made=made)
    rows = [json.loads((tmp_path / f"made{number}").read_text())["rows"] for number in range(3)]
    assert sum(rows) == len(alone)
    assert max(rows) - min(rows) <= 1
    gathered = chain.run(store=store)
    assert chain.decoded == {"images": 0, "views": 0}
    pd.testing.assert_frame_equal(alone.drop(columns="features"), gathered.drop(columns="features"))
    assert cosines(vectors(alone), vectors(gathered)).min() > 0.99999


def test_a_shard_without_a_store_in_common_is_refused(chain: Chain, tmp_path: Path) -> None:
    inputs = {"images": chain.home / "images", "views": chain.home / "views", "network": chain.network}
    with pytest.raises(GraftError, match=r"feature_extraction.store names no place"):
        feature_shard.run(feature_extraction=SECTION, number=0, count=2, **inputs, made=tmp_path / "made")


def test_images_have_view_0_and_only_they_are_judged_by(chain: Chain) -> None:
    frame = chain.run()
    assert sorted(set(frame["view"])) == [0, 1, 2]
    assert not frame[frame["view"] == 0]["sha256"].duplicated().any()
    train = feature_extraction._training_features(frame, vectors(frame), "target", 1)
    assert train.scored is not None
    labelled = frame[(frame["split"] == "train") & (frame["label"] >= 0)]
    assert train.scored.sum() == ((labelled["domain"] == "target") & (labelled["view"] == 0)).sum()


@pytest.mark.parametrize("change", ["weights", "layers", "normalisation", "precision"])
def test_another_network_or_number_format_shares_nothing(chain: Chain, change: str) -> None:
    first = chain.run()
    section: dict[str, Any] = {}
    trunk, config = build("digits_cnn", seed=1 if change == "weights" else 0)
    if change == "layers":
        section = {"layers": [trunk.stages[-1][0]]}
    if change == "normalisation":
        config = replace(config, preprocessing=replace(config.preprocessing, std=(0.4, 0.4, 0.4)))
    if change == "precision":
        usual = number_format(torch.device("cpu"))
        section = {"precision": "bfloat16" if usual == torch.float32 else "float32"}
    save_backbone(trunk, config, chain.network)
    chain.run(**section)
    assert chain.decoded == counts(first)


def test_the_engine_shares(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    first = vectors(chain.run(engine="openvino"))
    assert np.array_equal(vectors(chain.run(engine="torch")), first)
    assert chain.decoded == {"images": 0, "views": 0}


def test_a_damaged_store_is_never_an_error(chain: Chain) -> None:
    first = chain.run()
    for shard in (chain.home / "features").rglob("*.parquet"):
        shard.write_bytes(shard.read_bytes()[:-20] + b"x" * 7)
    second = chain.run()
    assert chain.decoded == counts(first)
    assert np.array_equal(vectors(first), vectors(second))
    chain.run()
    assert chain.decoded == {"images": 0, "views": 0}


def test_a_store_that_cannot_be_reached_is_said_and_done_without(
    chain: Chain, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unreachable(*_: Any, **__: Any) -> Any:
        raise GraftError("s3://team/features cannot be fetched: NoSuchBucket", "check it")

    monkeypatch.setattr(stored_features, "fetch_rows", unreachable)
    frame = chain.run(store="s3://team/features")
    assert chain.decoded == counts(frame)
    assert "s3://team/features is not used: s3://team/features cannot be fetched" in capsys.readouterr().err


def test_a_team_shares_a_folder_and_without_one_or_a_home_nothing_is_kept(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "shared"
    first = chain.run(store=str(shared))
    assert not (chain.home / "features").exists()
    monkeypatch.setenv("GRAFT_HOME", str(tmp_path / "another"))
    chain.run(store=str(shared))
    assert chain.decoded == {"images": 0, "views": 0}
    monkeypatch.delenv("GRAFT_HOME")
    for _ in range(2):
        chain.run()
        assert chain.decoded == counts(first)


def test_the_limit_holds(chain: Chain) -> None:
    chain.run(store_limit="60 KiB")
    chain.run(store_limit="60 KiB", precision="bfloat16")
    kept = sum(file.stat().st_size for file in (chain.home / "features").rglob("*") if file.is_file())
    assert 0 < kept <= 60 * 1024


def test_many_images_are_worked_on_in_parts(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = chain.run()
    shutil.rmtree(chain.home / "features")
    monkeypatch.setattr(stored_features, "CHUNK_BYTES", 7 * 3 * 32 * 32)
    cut = chain.run()
    assert chain.decoded == counts(whole)
    assert list(cut["sha256"]) == list(whole["sha256"])
    assert cosines(vectors(whole), vectors(cut)).min() > 0.99999
