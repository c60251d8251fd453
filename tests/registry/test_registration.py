"""Registering: what is stored, what is repeated, and what a crash leaves behind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient

from graft.backbones.descriptions import read_model_json
from graft.errors import GraftError
from graft.params import Params, Registry
from graft.registry import registration

Enter = Callable[..., dict[str, Any]]
Candidate = Callable[..., Path]


@pytest.fixture
def client(registry: Registry) -> MlflowClient:
    return MlflowClient(registry.tracking_uri)


def versions(client: MlflowClient) -> list[str]:
    return sorted(str(each.version) for each in client.search_model_versions("name = 'insects'"))


def aliases(client: MlflowClient) -> dict[str, str]:
    models = client.search_registered_models()
    return {alias: str(to) for model in models for alias, to in model.aliases.items()}


def test_the_answer_and_the_aliases(enter: Enter, candidate: Candidate, client: MlflowClient) -> None:
    result = enter(candidate())
    assert result["name"] == "insects"
    assert (result["version"], result["uri"]) == ("1", "models:/insects/1")
    assert (result["champion"], result["aliases"]) == (True, ["challenger", "champion"])
    assert not result["reused"]
    assert client.get_run(result["run_id"]).info.status == "FINISHED"
    assert aliases(client) == {"challenger": "1", "champion": "1"}


def test_a_version_is_traced_by_its_tags(enter: Enter, candidate: Candidate, client: MlflowClient) -> None:
    folder = candidate()
    enter(folder, backbone_sha256="d" * 64)
    tags = client.get_model_version("insects", "1").tags
    assert tags["data_md5"] == "a" * 32
    assert tags["git_commit"] == "c0ffee"
    assert tags["params_sha256"] == "b" * 64
    assert tags["backbone_sha256"] == "d" * 64
    assert tags["weights_sha256"] == read_model_json(folder)["weights_sha256"]
    assert tags["method"] == "probe"
    assert tags["accuracy"] == "0.9000"


def test_the_run_holds_everything(enter: Enter, candidate: Candidate, client: MlflowClient) -> None:
    result = enter(candidate(), pipeline_run="monday", step_seconds={"probe": 2})
    run = client.get_run(result["run_id"])
    assert run.info.run_name == "monday"
    assert run.data.metrics == {"accuracy.probe": 0.9, "accuracy.adapted": 0.5, "seconds.probe": 2.0}
    assert run.inputs is not None
    assert [each.dataset.digest for each in run.inputs.dataset_inputs] == ["a" * 32]
    names = {file.path for file in client.list_artifacts(result["run_id"])}
    assert names == {"decision.json", "scores.json", "report.html", "predictions.parquet", "sbom.cdx.json"}
    scores = mlflow.artifacts.load_dict(f"{run.info.artifact_uri}/scores.json")
    assert scores == {"accuracy.probe": 0.9, "accuracy.adapted": 0.5}  # NaN is not JSON


def test_all_of_params_yaml_is_logged(candidate: Candidate, client: MlflowClient, registry: Registry) -> None:
    params = Params().model_dump(mode="json")
    lineage = {"data_md5": "a" * 32, "git_commit": "x", "params_sha256": "y", "params": params}
    decision = {"winner": "probe", "promote": False}
    result = registration.register(candidate(), decision, registry, lineage=lineage, metrics={})
    logged = client.get_run(result["run_id"]).data.params
    assert logged["fine_tuning.epochs"] == str(params["fine_tuning"]["epochs"])
    assert logged["backbone.pretrain.epochs"] == str(params["backbone"]["pretrain"]["epochs"])
    assert len(logged) > 50
    assert "accuracy" not in client.get_model_version("insects", "1").tags


def test_the_stored_model(enter: Enter, candidate: Candidate, registry: Registry) -> None:
    enter(candidate())
    stored = Path(
        mlflow.artifacts.download_artifacts("models:/insects/1", tracking_uri=registry.tracking_uri)
    )
    files = {file.relative_to(stored).as_posix() for file in stored.rglob("*") if file.is_file()}
    assert not [file for file in files if file.endswith((".pkl", ".pickle", ".pt", ".pth", ".bin"))]
    assert {"artifacts/model/model.json", "artifacts/model/weights.safetensors"} <= files
    assert {"code/graft/__init__.py", "code/graft/backbones/classifier.py", "served_model.py"} <= files
    pinned = (stored / "requirements.txt").read_text().split()
    assert all("==" in line and "+" not in line for line in pinned)
    assert {line.partition("==")[0] for line in pinned} >= {"mlflow", "torch", "pillow", "safetensors"}
    signature = mlflow.models.Model.load(stored).signature
    assert signature.inputs.input_names() == ["image"]
    assert signature.outputs.input_names() == ["label", "probability", "top", "error"]
    assert signature.params.to_dict() == [
        {"name": "top_k", "type": "long", "default": 3, "shape": None},
    ]
    example = json.loads((stored / "serving_input_example.json").read_text())
    assert example["dataframe_split"]["columns"] == ["image"]


def test_without_promotion_there_is_no_champion(
    enter: Enter, candidate: Candidate, client: MlflowClient
) -> None:
    result = enter(candidate(), promote=False)
    assert (result["champion"], result["aliases"]) == (False, ["challenger"])
    assert aliases(client) == {"challenger": "1"}


def test_the_champion_stays_when_a_challenger_loses(
    enter: Enter, candidate: Candidate, client: MlflowClient
) -> None:
    enter(candidate(seed=0), promote=True)
    enter(candidate(seed=1), promote=False)
    assert aliases(client) == {"challenger": "2", "champion": "1"}
    enter(candidate(seed=2), promote=True)
    assert aliases(client) == {"challenger": "3", "champion": "3"}


def test_the_same_again_is_the_same_version(enter: Enter, candidate: Candidate, client: MlflowClient) -> None:
    folder = candidate()
    first = enter(folder, promote=True)
    again = enter(folder, promote=False)  # "already champion" is no promotion
    assert again == {**first, "reused": True}
    assert versions(client) == ["1"]


def test_a_challenger_can_be_promoted_later(enter: Enter, candidate: Candidate, client: MlflowClient) -> None:
    folder = candidate()
    enter(folder, promote=False)
    assert enter(folder, promote=True)["champion"]
    assert versions(client) == ["1"]


def test_other_data_or_another_model_is_a_new_version(
    enter: Enter, candidate: Candidate, client: MlflowClient, registry: Registry
) -> None:
    folder = candidate()
    enter(folder)
    assert not enter(folder, data_md5="e" * 32)["reused"]
    assert versions(client) == ["1", "2"]
    other = registry.model_copy(update={"model_name": "it's another"})
    assert enter(folder, params=other)["version"] == "1"
    assert enter(folder, params=other)["reused"]


def test_a_version_whose_files_are_gone_is_not_reused(
    enter: Enter, candidate: Candidate, client: MlflowClient, tmp_path: Path, capsys: Any
) -> None:
    folder = candidate()
    enter(folder)
    shutil.rmtree(tmp_path / "mlartifacts")
    result = enter(folder)
    assert (result["version"], result["reused"]) == ("2", False)
    assert "version 1 of insects is not used again" in capsys.readouterr().err
    assert aliases(client) == {"challenger": "2", "champion": "2"}
    assert enter(folder)["version"] == "2"


CRASHES = {
    "before the run": (mlflow, "start_run"),
    "artifacts": (mlflow, "log_artifacts"),
    "model": (registration, "log_model"),
    "trial": (registration, "try_out"),
    "version": (mlflow, "register_model"),
    "challenger": (MlflowClient, "set_registered_model_alias"),
}


@pytest.mark.parametrize("where", CRASHES)
def test_a_crash_leaves_the_champion_alone_and_the_next_attempt_finishes(
    enter: Enter,
    candidate: Candidate,
    client: MlflowClient,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    enter(candidate(seed=0))
    winner = candidate(seed=1)

    def crash(*_: object, **__: object) -> None:
        raise RuntimeError("pulled the plug")

    with monkeypatch.context() as patch:
        patch.setattr(*CRASHES[where], crash)
        with pytest.raises(RuntimeError, match="pulled the plug"):
            enter(winner)
    assert aliases(client) == {"challenger": "1", "champion": "1"}
    assert versions(client) == (["1", "2"] if where == "challenger" else ["1"])

    result = enter(winner)
    assert result["reused"] == (where == "challenger")
    assert result["champion"]
    assert versions(client) == ["1", "2"]
    assert aliases(client) == {"challenger": "2", "champion": "2"}


def test_a_crash_between_the_aliases(
    enter: Enter, candidate: Candidate, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter(candidate(seed=0))
    winner = candidate(seed=1)
    whole = MlflowClient.set_registered_model_alias

    def crash(self: MlflowClient, name: str, alias: str, version: str) -> None:
        if alias == "champion":
            raise KeyboardInterrupt
        whole(self, name, alias, version)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_registered_model_alias", crash)
        with pytest.raises(KeyboardInterrupt):
            enter(winner)
    assert aliases(client) == {"challenger": "2", "champion": "1"}
    assert enter(winner)["reused"]
    assert aliases(client) == {"challenger": "2", "champion": "2"}


def test_a_stored_model_that_answers_otherwise_is_not_registered(
    enter: Enter, candidate: Candidate, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, log = candidate(seed=1), registration.log_model
    monkeypatch.setattr(registration, "log_model", lambda winner, work: log(other, work))
    with pytest.raises(GraftError, match="answers otherwise") as caught:
        enter(candidate(seed=0))
    assert "artifact store" in caught.value.fix
    assert versions(client) == []
    assert aliases(client) == {}


@pytest.mark.parametrize("damage", ["model.json", "weights.safetensors"])
def test_a_broken_winner_leaves_no_trace(
    enter: Enter, candidate: Candidate, client: MlflowClient, tmp_path: Path, damage: str
) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(candidate(), folder)
    (folder / damage).write_bytes((folder / damage).read_bytes()[:-20])
    with pytest.raises(GraftError, match=damage):
        enter(folder)
    assert client.get_experiment_by_name("graft") is None


def test_mlflow_unreachable(candidate: Candidate, enter: Enter) -> None:
    with pytest.raises(GraftError, match=r"http://127\.0\.0\.1:9") as caught:
        enter(candidate(), params=Registry(tracking_uri="http://127.0.0.1:9"))
    assert "registry.tracking_uri" in caught.value.fix
