"""The model that serves now, also when its files are not what they were."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graft
from graft.backbones.descriptions import read_model_json
from graft.errors import GraftError
from graft.params import Registry
from graft.registry.champion import champion

Enter = Callable[..., dict[str, Any]]
Candidate = Callable[..., Path]


def test_a_registry_that_does_not_exist_has_none_and_is_not_made(tmp_path: Path) -> None:
    assert champion(Registry(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")) is None
    assert list(tmp_path.iterdir()) == []


def test_none_registered(registry: Registry) -> None:
    assert champion(registry) is None


def test_a_challenger_is_no_champion(registry: Registry, enter: Enter, candidate: Candidate) -> None:
    enter(candidate(), promote=False)
    assert champion(registry) is None


def test_it_is_the_model_that_was_promoted(registry: Registry, enter: Enter, candidate: Candidate) -> None:
    promoted = candidate(seed=0)
    enter(promoted, promote=True)
    enter(candidate(seed=1), promote=False)
    found = champion(registry)
    assert found is not None
    assert found.folder is not None
    assert (found.version, found.problem) == ("1", None)
    assert found.weights_sha256 == read_model_json(promoted)["weights_sha256"]
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    np.testing.assert_array_equal(
        graft.load(found.folder).predict(list(images)), graft.load(promoted).predict(list(images))
    )


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-8])


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "weights cut short": (lambda folder: cut(folder / "weights.safetensors"), "weights are not those"),
    "weights deleted": (lambda folder: (folder / "weights.safetensors").unlink(), "no weights.safetensors"),
    "description cut short": (lambda folder: cut(folder / "model.json"), "not JSON"),
    "folder deleted": (shutil.rmtree, "no model.json and no weights.safetensors"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_champion_that_cannot_be_used_says_why(
    registry: Registry, enter: Enter, candidate: Candidate, tmp_path: Path, damage: str
) -> None:
    enter(candidate())
    (weights,) = (tmp_path / "mlartifacts").rglob("weights.safetensors")
    harm, words = DAMAGE[damage]
    harm(weights.parent)
    found = champion(registry)
    assert found is not None
    assert found.folder is None
    assert words in str(found.problem)
    assert found.weights_sha256


def test_an_unreachable_registry_is_not_taken_for_an_empty_one() -> None:
    with pytest.raises(GraftError, match=r"http://127\.0\.0\.1:9") as caught:
        champion(Registry(tracking_uri="http://127.0.0.1:9"))
    assert "registry.tracking_uri" in caught.value.fix
