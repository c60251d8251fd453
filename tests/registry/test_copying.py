"""From one MLflow to another: whole, once, and with its origin; and verifying a version."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient

import graft
from graft.errors import GraftError
from graft.evaluation.predictions import predict, write_predictions
from graft.images.table import ImageTable
from graft.params import Registry
from graft.registry.champion import champion
from graft.registry.copying import copy
from graft.registry.promotion import history
from graft.registry.tracing import trace_model
from graft.registry.verifying import verify

Enter = Callable[..., dict[str, Any]]
Candidate = Callable[..., Path]


@pytest.fixture
def far(tmp_path: Path, empty_database: Path) -> Registry:
    """Another MLflow."""
    (tmp_path / "far").mkdir()
    shutil.copyfile(empty_database, tmp_path / "far" / "mlflow.db")
    return Registry(tracking_uri=f"sqlite:///{tmp_path / 'far' / 'mlflow.db'}", model_name="insects")


def weights(registry: Registry, tmp_path: Path) -> list[Path]:
    """The stored weights, by their age."""
    place = tmp_path / "far" if "far/" in str(registry.tracking_uri) else tmp_path
    return sorted((place / "mlartifacts").rglob("weights.safetensors"), key=lambda file: file.stat().st_mtime)


def test_a_copy_is_the_model_and_knows_its_origin(
    registry: Registry, far: Registry, enter: Enter, candidate: Candidate
) -> None:
    enter(candidate(seed=1), promote=False)
    enter(candidate(seed=0), pipeline_run="monday", step_seconds={"probe": 2})
    done = copy(registry, far, "insects@champion")
    assert (done["version"], done["alias"], done["reused"], done["moved"]) == ("1", "champion", False, True)
    here, there = trace_model(registry, "insects@champion"), trace_model(far, "insects@champion")
    assert there["origin"] == {"uri": registry.tracking_uri, "version": "2", "run_id": here["run_id"]}
    different = {"version", "aliases", "run_id", "origin"}
    assert {k: v for k, v in here.items() if k not in different} == {
        k: v for k, v in there.items() if k not in different
    }
    found = champion(far)
    assert found is not None
    assert found.folder is not None
    images = list(np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8))
    np.testing.assert_array_equal(
        graft.load(found.folder).predict(images), graft.load(candidate(seed=0)).predict(images)
    )
    assert verify(far, "insects@champion")["passed"]
    (entry,) = history(far)["entries"]
    assert (entry["action"], entry["to"], entry["outcome"]) == ("copy", "1", "done")


def test_a_copy_is_made_once(registry: Registry, far: Registry, enter: Enter, candidate: Candidate) -> None:
    enter(candidate())
    assert copy(registry, far, "insects/1")["alias"] is None
    assert champion(far) is None
    again = copy(registry, far, "insects@champion")
    assert (again["version"], again["reused"], again["moved"]) == ("1", True, True)
    assert not copy(registry, far, "insects@champion")["moved"]
    back = copy(far, registry, "insects@champion")  # a copy of a copy, back at its origin, is another version
    assert (back["version"], back["reused"]) == ("2", False)


@pytest.mark.parametrize("where", ["upload", "version", "alias"])
def test_a_half_copy_has_no_alias_and_is_repeated(
    registry: Registry,
    far: Registry,
    enter: Enter,
    candidate: Candidate,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    enter(candidate())
    places: dict[str, tuple[Any, str]] = {
        "upload": (mlflow, "log_artifacts"),
        "version": (mlflow, "register_model"),
        "alias": (MlflowClient, "set_registered_model_alias"),
    }

    def crash(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(*places[where], crash)
        with pytest.raises(KeyboardInterrupt):
            copy(registry, far, "insects@champion")
    assert champion(far) is None
    done = copy(registry, far, "insects@champion")
    assert (done["version"], done["reused"], done["moved"]) == ("1", where == "alias", True)


def test_what_arrives_damaged_becomes_no_version(
    registry: Registry, far: Registry, enter: Enter, candidate: Candidate, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter(candidate())
    monkeypatch.setattr(MlflowClient, "download_artifacts", _truncating(MlflowClient.download_artifacts))
    with pytest.raises(GraftError, match="what arrived at the destination") as caught:
        copy(registry, far, "insects@champion")
    assert "no alias was moved" in caught.value.fix
    assert champion(far) is None


def _truncating(whole: Callable[..., str]) -> Callable[..., str]:
    def download(self: MlflowClient, run_id: str, path: str, folder: str) -> str:
        place = whole(self, run_id, path, folder)
        for file in Path(place).rglob("*.safetensors"):
            file.write_bytes(file.read_bytes()[:-1])
        return place

    return download


def test_a_damaged_version_is_not_copied(
    registry: Registry, far: Registry, enter: Enter, candidate: Candidate, tmp_path: Path
) -> None:
    enter(candidate())
    (file,) = weights(registry, tmp_path)
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    with pytest.raises(GraftError, match="not the model that was registered") as caught:
        copy(registry, far, "insects@champion")
    assert "restore its files" in caught.value.fix
    assert MlflowClient(far.tracking_uri).search_registered_models() == []


def test_onto_itself(registry: Registry) -> None:
    with pytest.raises(GraftError, match="--from and --to are both") as caught:
        copy(registry, registry, "insects@champion")
    assert "graft promote" in caught.value.fix


def checks(result: dict[str, Any]) -> dict[str, tuple[bool | None, str]]:
    return {check["check"]: (check["passed"], check["text"]) for check in result["checks"]}


def test_verifying_repeats_the_logged_predictions(
    registry: Registry, enter: Enter, candidate: Candidate, table: ImageTable, tmp_path: Path
) -> None:
    logged = predict({"probe": graft.load(candidate())}, table, batch_size=5)
    write_predictions(tmp_path / "predictions", logged)
    enter(candidate())
    found = checks(verify(registry, "insects@champion", table.path))
    assert all(passed for passed, _ in found.values())
    assert f"{len(logged.rows)} of {len(logged.rows)} logged images" in found["logged predictions"][1]
    assert set(found) == {
        "weights against model.json",
        "weights against the registry",
        "every stored file",
        "served answers",
        "logged predictions",
    }
    without = checks(verify(registry, "insects@champion"))
    assert "give --images" in without["logged predictions"][1]


def test_predictions_of_another_model_are_noticed(
    registry: Registry, enter: Enter, candidate: Candidate, table: ImageTable, tmp_path: Path
) -> None:
    other = predict({"probe": graft.load(candidate(seed=1))}, table, batch_size=64)
    write_predictions(tmp_path / "predictions", other)
    enter(candidate(seed=0))
    result = verify(registry, "insects@champion", table.path)
    assert not result["passed"]
    passed, text = checks(result)["logged predictions"]
    assert not passed
    assert "differs by" in text


def test_images_of_other_data_are_noticed(
    registry: Registry, enter: Enter, candidate: Candidate, table: ImageTable, tmp_path: Path
) -> None:
    logged = predict({"probe": graft.load(candidate())}, table, batch_size=64)
    logged.rows["sha256"] = [f"{number:064d}" for number in range(len(logged.rows))]
    write_predictions(tmp_path / "predictions", logged)
    enter(candidate())
    result = verify(registry, "insects@champion", table.path)
    passed, text = checks(result)["logged predictions"]
    assert (result["passed"], result["repeated"], passed) == (True, False, None)
    assert "give the image table of the version's data" in text


def spoil(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("name", ["weights.safetensors", "served_model.py", "model.json"])
def test_one_changed_bit_is_found(
    registry: Registry, enter: Enter, candidate: Candidate, tmp_path: Path, name: str
) -> None:
    enter(candidate())
    for file in (tmp_path / "mlartifacts").rglob(name):
        spoil(file)
    result = verify(registry, "insects@champion")
    assert not result["passed"]
    assert any(not check["passed"] for check in result["checks"])
