"""The registry's commands, as a user types them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from click.testing import CliRunner, Result
from torch import nn

from graft.backbones.classifier import Classifier, save_classifier
from graft.backbones.trunk import build
from graft.errors import GraftError
from graft.params import Registry
from graft.registry.registration import register
from pipelines.commands_registry import COMMANDS

Run = Callable[..., Result]


def winner(folder: Path, seed: int) -> Path:
    trunk, config = build("digits_cnn", seed=seed)
    torch.manual_seed(seed)
    head = nn.Linear(config.num_features, 2)
    save_classifier(Classifier(trunk, head, config=config, classes=("ant", "bee")), folder, method="probe")
    return folder


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project's folder with two versions registered, the first of them champion."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "params.yaml").write_text("registry: {model_name: insects}")
    params = Registry(tracking_uri=f"sqlite:///{folder}/mlflow.db", model_name="insects")
    lineage = {
        "data_md5": "a" * 32,
        "git_commit": "c0ffee",
        "params_sha256": "b" * 64,
        "params": {"backbone": {"seed": 0}},
        "step_seconds": {"backbone": 2},
    }
    for seed in (0, 1):
        reasons = [{"rule": "gain", "passed": seed == 0, "text": f"reason {seed}"}]
        decision = {"winner": "probe", "promote": seed == 0, "reasons": reasons, "champion": None}
        metrics = {"accuracy.probe": 0.9 + seed / 100}
        register(winner(folder / f"winner{seed}", seed), decision, params, lineage=lineage, metrics=metrics)
    return folder


@pytest.fixture
def run(project: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(project)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("GRAFT_RUN", raising=False)
    group = click.Group("graft", commands={str(command.name): command for command in COMMANDS})

    def call(*arguments: str, fails: bool = False) -> Result:
        # As `graft` calls it: errors are its own to show, and what a command returns is not an exit status.
        result = CliRunner().invoke(group, list(arguments), standalone_mode=False)
        assert (result.exit_code != 0) == fails, result.output
        return result

    return call


def test_the_tour(run: Run, tmp_path: Path) -> None:
    table = run("models").output
    assert "champion" in table
    assert "91.0 %" in table
    assert "aaaaaaaa" in table
    assert [row["version"] for row in json.loads(run("models", "--json").output)] == ["2", "1"]

    assert "insects: 1 → 2" in run("promote", "2", "--reason", "it is better").output
    assert "champion already" in run("promote", "2").output
    assert "insects: 2 → 1" in run("rollback", "--reason", "it is not").output
    ledger = run("history").output
    for words in ("it is better", "it is not", "1 → 2", "none → 1", "reason 0", "done"):
        assert words in ledger
    entries: Any = json.loads(run("history", "--json").output)["entries"]
    assert [(entry["from"], entry["to"]) for entry in entries] == [(None, "1"), ("1", "2"), ("2", "1")]

    facts = run("trace", "--model", "insects@champion").output
    for words in ("c0ffee", "a" * 32, "b" * 64, "backbone 2", "backbone.seed = 0", "✓ reason 0"):
        assert words in facts
    assert json.loads(run("trace", "--model", "insects@champion", "--json").output)["version"] == "1"
    assert "challenger" in run("trace", "--data", "aaaa").output
    assert len(json.loads(run("trace", "--data", "aaaa", "--json").output)) == 2

    far = f"sqlite:///{tmp_path}/mlflow.db"
    here = f"sqlite:///{Path.cwd()}/mlflow.db"
    assert (
        "is now version 1 of insects, `champion`"
        in run("copy", "--from", here, "--to", far, "insects@champion").output
    )
    assert "was there already" in run("copy", "--from", here, "--to", far, "insects@champion").output
    assert "mlflow.db version 1" in run("models", "--tracking-uri", far).output

    assert "is the model that was registered" in run("verify", "insects@champion").output
    for file in (tmp_path / "mlartifacts").rglob("weights.safetensors"):
        file.write_bytes(file.read_bytes()[:-1] + b"\7")
    damaged = run("verify", "insects@champion", "--tracking-uri", far, "--json", fails=True)
    assert damaged.exit_code == 1
    assert not json.loads(damaged.output)["passed"]


FAULTS = {
    "trace": ("needs --model or --data", "digits@champion"),
    "trace --model insects@champion --data aaaa": ("needs --model or --data", ""),
    "models --name birds": ("no registered model 'birds'", "--name"),
    "promote 8": ("no version '8'", "graft models"),
    "verify insects@champion --images nowhere": ("nowhere", ""),
    "models --name a/b": ("model_name", "correct model_name"),
}


@pytest.mark.parametrize("line", FAULTS)
def test_faults_name_their_fix(run: Run, line: str) -> None:
    problem, fix = FAULTS[line]
    error = run(*line.split(), fails=True).exception
    assert isinstance(error, GraftError)
    assert problem in error.problem
    assert fix in error.fix


def test_a_rollback_needs_a_reason(run: Run) -> None:
    error = run("rollback", fails=True).exception
    assert isinstance(error, click.MissingParameter)
    assert "--reason" in error.format_message()
