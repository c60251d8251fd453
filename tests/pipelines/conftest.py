"""The whole chain in its tiny form, through the command that users run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent.parent

# Seconds instead of minutes: everything the chain does, on few images and for few steps.
TINY = {
    "data": {"val_fraction": 0.2},
    "backbone": {"pretrain": {"epochs": 2, "batch_size": 16}},
    "augmentation": {"views": 1},
    "feature_extraction": {"path": 3},
    "fine_tuning": {"head_epochs": 1, "epochs": 3, "batch_size": 16, "baseline_epochs": 2},
    "domain_adaptation": {"epochs": 2, "batch_size": 8, "target_epochs": 1},
    "evaluation": {"min_accuracy": 0.05, "max_calibration_error": 1.0, "bootstrap": 200},
    "registry": {"model_name": "tiny"},
}


@dataclass(frozen=True)
class Checkout:
    """A folder that stands for what a user has checked out: runs, MLflow and kept results are below it."""

    folder: Path

    @property
    def latest(self) -> Path:
        return self.folder / "runs" / "latest"

    @property
    def summary(self) -> dict[str, Any]:
        return json.loads((self.latest / "summary.json").read_text())

    def environment(self) -> dict[str, str]:
        mine = ("GRAFT_", "MLFLOW_")
        here = {name: value for name, value in os.environ.items() if not name.startswith(mine)}
        tools = str(Path(sys.executable).parent)
        return here | {"PATH": f"{tools}{os.pathsep}{here['PATH']}", "MLFLOW_DISABLE_TELEMETRY": "true"}

    def command(self, data: Path, *more: str) -> list[str]:
        graft = str(Path(sys.executable).parent / "graft")
        return [graft, "retrain", "--params", str(self.folder / "params.yaml"), "--data", str(data), *more]

    def retrain(self, data: Path, *more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(data, *more),
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            check=False,
        )


def make_checkout(folder: Path) -> Checkout:
    (folder / "params.yaml").write_text(yaml.safe_dump(TINY))
    return Checkout(folder)


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return make_checkout(tmp_path)


@pytest.fixture(scope="session")
def trained(two_domains: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout after one successful run; tests must leave its first run as it is."""
    place = make_checkout(tmp_path_factory.mktemp("trained"))
    done = place.retrain(two_domains)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (place.folder / "first.txt").write_text(done.stdout)
    (place.folder / "first").symlink_to(place.latest.resolve())
    return place
