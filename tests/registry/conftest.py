"""A small classifier, and an MLflow database of its own for every test."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from graft.backbones.classifier import Classifier, save_classifier
from graft.backbones.trunk import build
from graft.params import Registry
from graft.registry.registration import register
from graft.registry.tracking import reach

CLASSES = ("ant", "bee", "cat", "dog")
Candidate = Callable[..., Path]


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's tables take seconds to make, so tests copy them."""
    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    reach(f"sqlite:///{file}")
    return file


@pytest.fixture
def registry(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """An SQLite MLflow in the test's folder."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(empty_database, tmp_path / "mlflow.db")
    return Registry(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}", model_name="insects")


@pytest.fixture(scope="session")
def candidate(tmp_path_factory: pytest.TempPathFactory) -> Candidate:
    """Makes a classifier's folder; another seed gives other weights, the same seed the same folder."""

    @cache
    def make(seed: int = 0, backbone: str = "digits_cnn") -> Path:
        folder = tmp_path_factory.mktemp("step") / "winner"
        trunk, config = build(backbone, seed=seed)
        head = nn.Linear(config.num_features, len(CLASSES))
        with torch.no_grad():
            generator = torch.Generator().manual_seed(seed)
            for weights in (head.weight, head.bias):
                weights.copy_(torch.randn(weights.shape, generator=generator))
        save_classifier(Classifier(trunk, head, config=config, classes=CLASSES), folder, method="probe")
        return folder

    return make


@pytest.fixture
def enter(registry: Registry, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Registers a folder with plain lineage; keyword arguments replace parts of it."""
    (tmp_path / "report").write_text("<html>report</html>")
    (tmp_path / "predictions").write_bytes(b"PAR1")

    def call(
        winner: Path, *, promote: bool = True, params: Registry = registry, **lineage: Any
    ) -> dict[str, Any]:
        facts = {"data_md5": "a" * 32, "git_commit": "c0ffee", "params_sha256": "b" * 64, **lineage}
        return register(
            winner,
            {"winner": "probe", "promote": promote, "reasons": []},
            params,
            lineage=facts,
            metrics={"accuracy.probe": 0.9, "accuracy.adapted": 0.5, "gain": float("nan")},
            predictions=tmp_path / "predictions",
            report=tmp_path / "report",
        )

    return call
