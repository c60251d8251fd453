"""`graft tune --on katib`: what Katib is told, and what a trial tells Katib."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from kubeflow_katib_api.models import V1beta1Experiment

from graft.errors import GraftError
from graft.params import Params, read_params
from pipelines.commands_tuning import tune as command
from pipelines.search import read_search, value_at
from pipelines.tuning import katib_trial
from pipelines.tuning.katib import experiment, experiment_name
from pipelines.tuning.trial import Place, Score
from tests.pipelines.conftest import ROOT, TINY

IMAGE = "graft@sha256:" + "0" * 64
Make = Callable[..., dict[str, Any]]

SEARCH = {
    "fine_tuning.learning_rate": {"low": 0.0001, "high": 0.01, "log": True},
    "fine_tuning.weight_decay": {"low": 0.0, "high": 0.1},
    "fine_tuning.epochs": {"low": 2, "high": 9},
    "fine_tuning.batch_size": {"choices": [32, 64]},
    "fine_tuning.schedule": {"choices": ["cosine", "one_cycle"]},
    "fine_tuning.statistics": {"choices": [None, "stored"]},
}
CLUSTER = {
    "defaults": {
        "volumes": [
            {"pvc": "graft-home", "mount_path": "/graft"},
            {"size": "20Gi", "mount_path": "/scratch"},
        ],
        "config_maps": [{"name": "graft", "keys": {"home": "GRAFT_HOME"}}],
        "secrets": [{"name": "graft-s3", "mount_path": "/keys"}],
        "memory": {"limit": "4Gi"},
    },
    "steps": {
        "fine_tuning": {
            "accelerator": {"count": 1},
            "shm": "2Gi",
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
            "node_selector": {"accelerator": "nvidia"},
            "timeout_seconds": 600,
        }
    },
}


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Makes an Experiment from search.yaml."""

    def made(search: dict[str, Any] | None = None, **settings: Any) -> dict[str, Any]:
        params = Params.model_validate({"cluster": CLUSTER})
        (tmp_path / "search.yaml").write_text(yaml.safe_dump({"search": search or SEARCH, **settings}))
        read = read_search(tmp_path / "search.yaml", params)
        return experiment("Digits v2: fine_tuned", read, params, "dvc+s3://b/p?md5=0.dir", IMAGE, 3)

    return made


def trial_spec(made: dict[str, Any], **values: str) -> dict[str, Any]:
    """The job of one trial, its parameters put in as Katib does it: in the template's text."""
    template = made["spec"]["trialTemplate"]
    text = json.dumps(template["trialSpec"])
    for parameter in template["trialParameters"]:
        value = values.get(parameter["reference"], "1")
        text = text.replace(f"${{trialParameters.{parameter['name']}}}", value)
    job: dict[str, Any] = json.loads(text)
    job["metadata"] = {"name": "trial"}
    return job


def test_katibs_own_models_know_every_key(make: Make) -> None:
    made = make()
    model = V1beta1Experiment.from_dict(made)
    assert model is not None
    assert model.to_dict() == made  # an unknown key would be lost
    kubernetes_validate.validate(trial_spec(made), "1.31", strict=True)


def test_every_parameter_reaches_the_trial(make: Make) -> None:
    made = make()
    names = [parameter["name"] for parameter in made["spec"]["parameters"]]
    assert names == [one["reference"] for one in made["spec"]["trialTemplate"]["trialParameters"]]
    job = trial_spec(made, fine_tuning_learning_rate="0.003", fine_tuning_schedule="one_cycle")
    shell, flag, line = job["spec"]["template"]["spec"]["containers"][0]["command"]
    assert (shell, flag) == ("sh", "-c")
    assert "${" not in line
    assert "--set fine_tuning.learning_rate=0.003" in line.replace("'", "")
    assert "dvc+s3://b/p?md5=0.dir" in line
    spaces = {one["name"]: (one["parameterType"], one["feasibleSpace"]) for one in made["spec"]["parameters"]}
    log = {"min": "0.0001", "max": "0.01", "distribution": "logUniform"}
    assert spaces["fine_tuning_learning_rate"] == ("double", log)
    assert spaces["fine_tuning_epochs"] == ("int", {"min": "2", "max": "9", "distribution": "uniform"})
    assert spaces["fine_tuning_statistics"] == ("categorical", {"list": ["null", "stored"]})


def test_search_yaml_says_how_many_and_when_to_stop(make: Make) -> None:
    spec = make(trials=8, seed=5, prune_after_trials=6, prune_after_epochs=0)["spec"]
    assert (spec["maxTrialCount"], spec["parallelTrialCount"], spec["maxFailedTrialCount"]) == (8, 3, 4)
    assert spec["algorithm"]["algorithmSettings"] == [{"name": "random_state", "value": "5"}]
    stopping = {one["name"]: one["value"] for one in spec["earlyStopping"]["algorithmSettings"]}
    assert stopping == {"min_trials_required": "6", "start_step": "1"}
    assert "earlyStopping" not in make(prune=False)["spec"]


def test_a_trial_gets_what_the_candidates_step_gets(make: Make) -> None:
    job = trial_spec(make())["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"] == IMAGE
    assert container["resources"] == {"requests": {}, "limits": {"memory": "4Gi", "nvidia.com/gpu": "1"}}
    assert pod["nodeSelector"] == {"accelerator": "nvidia"}
    assert pod["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert {one["mountPath"] for one in container["volumeMounts"]} == {
        "/tmp",
        "/dev/shm",
        "/keys",
        "/graft",
        "/scratch",
    }
    assert job["activeDeadlineSeconds"] == 600
    params = json.loads(container["env"][0]["value"])
    assert params["fine_tuning"]["baseline"] is False
    assert {"evaluation", "domain_adaptation", "cluster"}.isdisjoint(params)


@pytest.mark.parametrize("choices", [[[0.5, 1.0], [0.7, 1.0]]])
def test_what_katib_cannot_hand_over_is_refused(make: Make, choices: list[Any]) -> None:
    with pytest.raises(GraftError, match="Katib cannot hand over"):
        make({"augmentation.crop_scale": {"choices": choices}})


@pytest.mark.parametrize("name", ["Digits v2: fine_tuned", "a" * 70, "ümläut", "--", "a" * 39 + "-b"])
def test_names_are_what_kubernetes_takes(name: str) -> None:
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?", experiment_name(name))


@given(st.floats(1e-9, 1e-1), st.integers(1, 9))
def test_a_number_survives_the_way_as_text(rate: float, epochs: int) -> None:
    words = [f"fine_tuning.learning_rate={rate}", f"fine_tuning.epochs={epochs}"]
    params = read_params([], words)
    assert value_at(params, "fine_tuning.learning_rate") == rate
    assert value_at(params, "fine_tuning.epochs") == epochs


def test_a_trial_prints_what_katibs_collector_reads(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def scored(params: Params, objective: str, place: Place, report: Callable[[int, float], None]) -> Score:
        assert (params.fine_tuning.epochs, objective, place.data) == (4, "fine_tuned", "s3://b/p")
        report(1, 0.25)
        report(2, 0.5)
        return Score(0.5, 1.25)

    monkeypatch.setattr(katib_trial, "score_trial", scored)
    monkeypatch.setenv("GRAFT_PARAMS", json.dumps({"fine_tuning": {"epochs": 3}}))
    words = ["--objective", "fine_tuned", "--data", "s3://b/p", "--set", "fine_tuning.epochs=4"]
    assert katib_trial.main(words) == 0
    lines = [line.split(" ", 1) for line in capsys.readouterr().out.splitlines()]
    # Katib's default filter.
    found = [re.findall(r"([\w|-]+)\s*=\s*([+-]?\d*(?:\.\d+)?(?:[Ee][+-]?\d+)?)", text) for _, text in lines]
    assert [(name, float(value)) for ((name, value),) in found] == [
        ("val_accuracy", 0.25),
        ("val_accuracy", 0.5),
        ("val_loss", 1.25),
        ("val_accuracy", 0.5),
    ]
    moments = [datetime.fromisoformat(moment.replace("Z", "+00:00")) for moment, _ in lines]
    assert moments == sorted(moments)


def test_a_trial_that_fails_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(params: Params, objective: str, place: Place, report: object) -> Score:
        (place.folder / "log.txt").write_text("step by step\n")
        raise GraftError("fine_tuning: training diverged", "lower the rate")

    monkeypatch.setattr(katib_trial, "score_trial", failing)
    monkeypatch.setenv("GRAFT_PARAMS", "{}")
    assert katib_trial.main(["--objective", "probe", "--data", "s3://b/p"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "step by step" in said.err
    assert "diverged" in said.err


def write(*options: str) -> Any:
    start = ["--on", "katib", "--search", str(ROOT / "recipes" / "search" / "fine_tuning.yaml")]
    return CliRunner().invoke(command, [*start, "--params", str(ROOT / "params.yaml"), *options])


def test_the_command_writes_the_experiment(tmp_path: Path) -> None:
    file = tmp_path / "experiment.yaml"
    done = write("--data", "s3://bucket/data", "--image", IMAGE, "-o", str(file), "--workers", "4")
    assert done.exit_code == 0, done.output
    assert "kubectl apply" in done.output
    assert "metrics-collector-injection" in done.output
    made = yaml.safe_load(io.StringIO(file.read_text()))
    assert made["metadata"]["name"] == "digits-fine-tuned"
    assert made["spec"]["parallelTrialCount"] == 4


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--data", "data", "--image", IMAGE], "a folder of this machine"),
        (["--data", "s3://b/p", "--image", "graft:latest"], "named by a tag"),
    ],
)
def test_what_pods_cannot_use_is_refused(options: list[str], problem: str, tmp_path: Path) -> None:
    done = write(*options, "-o", str(tmp_path / "experiment.yaml"))
    assert isinstance(done.exception, GraftError)
    assert problem in done.exception.problem
    assert not (tmp_path / "experiment.yaml").exists()


@pytest.mark.heavy
def test_a_trials_command_runs(two_domains: Path, tmp_path: Path) -> None:
    """For real, as the pod would: steps up to the probe, and its scores."""
    params = Params.model_validate(TINY)
    values = {"feature_extraction.weakest": {"low": 1.0, "high": 100.0}}
    (tmp_path / "search.yaml").write_text(yaml.safe_dump({"objective": "probe", "search": values}))
    search = read_search(tmp_path / "search.yaml", params)
    made = experiment("tiny", search, params, str(two_domains), IMAGE, 1)
    job = trial_spec(made, feature_extraction_weakest="10.0")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    variables = {one["name"]: one["value"] for one in container["env"]}
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, **variables, "PATH": tools, "GRAFT_HOME": str(tmp_path / "home")}
    done = subprocess.run(container["command"], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.fullmatch(r"\S+Z val_loss=[\d.]+\n\S+Z val_accuracy=[01]\.\d+\n", done.stdout)
