"""`graft tune`: what search.yaml may say, which trials run, and what they lead to."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import optuna
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import event
from sqlalchemy.engine import Engine

from graft.errors import GraftError
from graft.files import read_json
from graft.params import Params, read_params
from graft.registry.tracking import reach
from pipelines.chain import steps_to, unaffected
from pipelines.commands_tuning import tune as command
from pipelines.search import Dimension, Search, read_search, value_at, with_values
from pipelines.tuning import running, work
from pipelines.tuning.log import Log
from pipelines.tuning.picture import draw_trials
from pipelines.tuning.queue import finished, queue_lost
from pipelines.tuning.results import overlay, ranked, results_page
from pipelines.tuning.study import Tuning, open_study
from pipelines.tuning.trial import Place, Report, Score, abandoned, in_progress
from tests.pipelines.conftest import ROOT, TINY
from tests.registry.test_postgres_s3 import postgres  # noqa: F401

START = ("fine_tuning.learning_rate=0.001", "fine_tuning.batch_size=64", "fine_tuning.epochs=12")
RATE = {"fine_tuning.learning_rate": {"low": 0.0001, "high": 0.01, "log": True}}


def search_file(folder: Path, **content: Any) -> Path:
    (folder / "search.yaml").write_text(yaml.safe_dump({"search": RATE, **content}))
    return folder / "search.yaml"


# search.yaml


def test_the_shipped_search_fits_the_shipped_params() -> None:
    params = read_params([ROOT / "params.yaml"])
    search = read_search(ROOT / "recipes" / "search" / "fine_tuning.yaml", params)
    kinds = {each.key: each.kind for each in search.dimensions}
    assert kinds == {
        "fine_tuning.learning_rate": "float",
        "fine_tuning.batch_size": "choice",
        "fine_tuning.weight_decay": "float",
    }
    for each in search.dimensions:
        assert each.holds(own := value_at(params, each.key)) or own is None


def test_the_type_of_a_range_is_its_keys(tmp_path: Path) -> None:
    spans = {"fine_tuning.epochs": {"low": 1, "high": 3}, "fine_tuning.weight_decay": {"low": 0, "high": 1}}
    epochs, decay = read_search(search_file(tmp_path, search=spans), Params()).dimensions
    assert (epochs.kind, decay.kind) == ("int", "float")
    assert isinstance(epochs.high, int)


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "a key of the file": ({"trails": 3}, "'trials'"),
    "a key of params.yaml": ({"search": {"fine_tuning.learning_rte": RATE}}, "'fine_tuning.learning_rate'"),
    "a section": ({"search": {"finetuning.epochs": {"low": 1, "high": 2}}}, "'fine_tuning.epochs'"),
    "a key of a range": ({"search": {"fine_tuning.epochs": {"low": 1, "hihg": 2}}}, "'high'"),
    "a section that comes after": ({"search": {"evaluation.seed": {"low": 1, "high": 2}}}, "does not change"),
    "another candidate's section": (
        {"objective": "probe", "search": RATE},
        "does not change probe",
    ),
    "the data": ({"search": {"data.val_fraction": {"low": 0.1, "high": 0.2}}}, "measured on"),
    "the baseline": ({"search": {"fine_tuning.baseline": {"choices": [True, False]}}}, "no candidate"),
    "below the key's range": ({"search": {"fine_tuning.epochs": {"low": 0, "high": 2}}}, "epochs = 0"),
    "a bad choice": ({"search": {"fine_tuning.batch_size": {"choices": [32, "many"]}}}, "'many'"),
    "one choice": ({"search": {"fine_tuning.batch_size": {"choices": [32]}}}, "two different"),
    "a choice twice": ({"search": {"fine_tuning.batch_size": {"choices": [32, 32]}}}, "two different"),
    "upside down": ({"search": {"fine_tuning.epochs": {"low": 3, "high": 2}}}, "low below high"),
    "half a range": ({"search": {"fine_tuning.epochs": {"low": 3}}}, "low below high"),
    "both": ({"search": {"fine_tuning.epochs": {"low": 1, "high": 2, "choices": [1, 2]}}}, "both choices"),
    "the logarithm of 0": (
        {"search": {"fine_tuning.weight_decay": {"low": 0, "high": 1, "log": True}}},
        "above 0",
    ),
    "a fraction of an epoch": ({"search": {"fine_tuning.epochs": {"low": 1.5, "high": 2}}}, "whole number"),
    "a range of names": ({"search": {"fine_tuning.method": {"low": 1, "high": 2}}}, "choices"),
    "nothing": ({"search": {}}, "names no key"),
    "no trials": ({"trials": 0}, "trials = 0"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_of_search_yaml_are_named(tmp_path: Path, name: str) -> None:
    content, words = FAULTS[name]
    with pytest.raises(GraftError) as caught:
        read_search(search_file(tmp_path, **content), Params())
    assert words in str(caught.value)
    assert "search.yaml" in caught.value.problem


@pytest.mark.parametrize("text", ["search: [", "- 1", "", "trials: 3"])
def test_a_file_that_is_no_search_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "search.yaml").write_text(text)
    with pytest.raises(GraftError, match=r"search\.yaml"):
        read_search(tmp_path / "search.yaml", Params())


@given(st.lists(st.one_of(st.integers(), st.text(), st.lists(st.floats(0, 1), min_size=2)), unique_by=str))
def test_choices_come_back_from_the_database_as_they_were(choices: list[Any]) -> None:
    dimension = Dimension("augmentation.crop_scale", "choice", choices=tuple(choices))
    for choice in choices:
        assert dimension.value(json.loads(json.dumps(dimension.stored(choice)))) == choice


def test_an_upstream_key_leaves_the_steps_before_it_as_they_are() -> None:
    steps = steps_to("adapted")
    assert [step.name for step in steps][-1] == "domain_adaptation"
    names = {step.name for step in unaffected(steps, {"augmentation"})}
    assert names == {"data_validation", "backbone"}
    assert {step.name for step in steps} & {"evaluation", "model_registration"} == set()


# Studies whose trials cost nothing


class NoLog(Log):
    def trial(self, tuning: Tuning, trial: optuna.trial.FrozenTrial) -> None:
        pass

    def study(self, *_: Any) -> None:
        pass


@pytest.fixture
def quick_commits() -> Iterator[None]:
    """SQLite does not wait for the disk."""
    event.listen(Engine, "connect", _do_not_wait)
    yield
    event.remove(Engine, "connect", _do_not_wait)


def _do_not_wait(connection: Any, _: object) -> None:
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous = OFF")


Scorer = Callable[[Params], float]
Cheap = Callable[..., Tuning]


@pytest.fixture
def cheap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_commits: None) -> Cheap:
    """A study whose trials take their score from a function of the parameters, three epochs each."""

    def make(scorer: Scorer, storage: str | None = None, **content: Any) -> Tuning:
        def score(params: Params, _: str, place: Place, report: Report, done: int = 0) -> Score:
            value = scorer(params)
            for epoch in range(done + 1, 4):
                report(epoch, value * epoch / 3)
            return Score(value, 1 - value)

        monkeypatch.setattr(work, "score_trial", score)
        monkeypatch.setattr(running, "_prepare", lambda _: "0" * 32)
        monkeypatch.setattr(running, "start_log", lambda *_: NoLog("", "", ""))
        monkeypatch.setattr(running, "stop_log", lambda *_: None)
        monkeypatch.setattr(running, "draw_trials", lambda *_: None)
        params = read_params([], START)
        search = read_search(search_file(tmp_path, **content), params)
        folder = tmp_path / "runs" / "tuning" / "cheap"
        return Tuning("cheap", search, params, tmp_path, folder, storage or f"sqlite:///{folder}.db")

    return make


def towards_small_rates(params: Params) -> float:
    return 1 - value_at(params, "fine_tuning.learning_rate") * 100


def values(study: optuna.Study) -> list[tuple[float | None, dict[str, Any]]]:
    return [(trial.value, trial.params) for trial in study.trials if trial.state.name != "FAIL"]


def test_the_best_overlay_beats_the_untouched_params(cheap: Cheap, tmp_path: Path) -> None:
    tuning = cheap(towards_small_rates, trials=12, prune=False)
    study = running.tune(tuning, tmp_path / "tuned.yaml")
    before = tuning.params
    after = read_params([tmp_path / "tuned.yaml"], START[1:])
    assert towards_small_rates(after) > towards_small_rates(before)
    assert 0.0001 <= value_at(after, "fine_tuning.learning_rate") <= 0.01
    changed = with_values(before, {key: value_at(after, key) for key in RATE})
    assert changed == after  # and nothing else is
    assert study.trials[0].params == {"fine_tuning.learning_rate": 0.001}
    text = (tmp_path / "tuned.yaml").read_text()
    assert "study cheap" in text
    assert f"{towards_small_rates(before):.4f}" in text
    assert draw_trials(tuning, study, tmp_path / "trials.png").stat().st_size > 1000


def test_equal_accuracies_go_to_the_lower_loss_then_to_the_untouched_params(
    cheap: Cheap, tmp_path: Path
) -> None:
    study = running.tune(cheap(lambda _: 0.5, trials=3, prune=False), tmp_path / "tuned.yaml")
    assert [trial.number for trial in ranked(study)] == [0, 1, 2]
    assert yaml.safe_load((tmp_path / "tuned.yaml").read_text()) == {"fine_tuning": {"learning_rate": 0.001}}


def test_params_outside_the_search_are_the_first_trial_all_the_same(cheap: Cheap, tmp_path: Path) -> None:
    spans = {"fine_tuning.batch_size": {"choices": [8, 16]}, "fine_tuning.epochs": {"low": 1, "high": 9}}
    seen: list[tuple[int, int]] = []

    def scorer(params: Params) -> float:
        seen.append((value_at(params, "fine_tuning.batch_size"), value_at(params, "fine_tuning.epochs")))
        return 1.0 if len(seen) == 1 else 0.1

    tuning = cheap(scorer, search=spans, trials=5, prune=False)
    study = running.tune(tuning, tmp_path / "tuned.yaml")
    assert seen[0] == (64, 12)
    assert all(batch in (8, 16) and 1 <= epochs <= 9 for batch, epochs in seen[1:])
    expected = {"fine_tuning": {"batch_size": 64, "epochs": 12}}
    assert yaml.safe_load(overlay(tuning, study, tmp_path)) == expected


def test_lists_can_be_choices(cheap: Cheap, tmp_path: Path) -> None:
    spans = {"augmentation.crop_scale": {"choices": [[0.7, 1.0], [0.5, 1.0], [0.2, 0.9]]}}
    tuning = cheap(lambda params: params.augmentation.crop_scale[0], search=spans, trials=4, prune=False)
    running.tune(tuning, tmp_path / "tuned.yaml")
    assert yaml.safe_load((tmp_path / "tuned.yaml").read_text()) == {
        "augmentation": {"crop_scale": [0.7, 1.0]}
    }


@pytest.mark.parametrize("stop_at", [0, 1, 4])
def test_interrupted_and_run_again_it_is_the_study_that_was_not(
    cheap: Cheap, tmp_path: Path, stop_at: int
) -> None:
    calls = iter(range(100))

    def interrupted(params: Params) -> float:
        if next(calls) == stop_at:
            raise KeyboardInterrupt
        return towards_small_rates(params)

    tuning = cheap(interrupted, trials=6, prune=False)
    with pytest.raises(KeyboardInterrupt):
        running.tune(tuning, tmp_path / "tuned.yaml")
    assert not (tmp_path / "tuned.yaml").exists()
    again = running.tune(tuning, tmp_path / "tuned.yaml")
    assert finished(again) == 6
    assert next(calls) == 7  # six trials, and one of them twice
    whole = replace(tuning, name="whole", storage=f"sqlite:///{tmp_path}/whole.db")
    assert values(again) == values(running.tune(whole, tmp_path / "whole.yaml"))


def test_a_finished_study_runs_nothing_and_more_trials_go_on(cheap: Cheap, tmp_path: Path) -> None:
    calls: list[float] = []

    def counting(params: Params) -> float:
        calls.append(towards_small_rates(params))
        return calls[-1]

    running.tune(cheap(counting, trials=3, prune=False), tmp_path / "tuned.yaml")
    running.tune(cheap(counting, trials=3, prune=False), tmp_path / "tuned.yaml")
    assert len(calls) == 3
    running.tune(cheap(counting, trials=5, prune=False), tmp_path / "tuned.yaml")
    assert len(calls) == len(set(calls)) == 5


def test_another_search_does_not_mix_with_a_study(cheap: Cheap, tmp_path: Path) -> None:
    running.tune(cheap(towards_small_rates, trials=1), tmp_path / "tuned.yaml")
    other = {"fine_tuning.learning_rate": {"low": 0.0001, "high": 0.1, "log": True}}
    with pytest.raises(GraftError, match=r"begun with search\.fine_tuning\.learning_rate") as caught:
        running.tune(cheap(towards_small_rates, trials=1, search=other), tmp_path / "tuned.yaml")
    assert "--study" in caught.value.fix
    tuning = cheap(towards_small_rates, trials=1)
    other_params = with_values(tuning.params, {"fine_tuning.epochs": 2})
    with pytest.raises(GraftError, match=r"begun with fine_tuning\.epochs = 12, now it is 2"):
        running.tune(replace(tuning, params=other_params), tmp_path / "tuned.yaml")


def test_bad_trials_are_pruned_but_never_the_first(cheap: Cheap, tmp_path: Path) -> None:
    tuning = cheap(towards_small_rates, trials=12, prune_after_trials=1, prune_after_epochs=0)
    states = [trial.state.name for trial in running.tune(tuning, tmp_path / "tuned.yaml").trials]
    assert "PRUNED" in states
    assert states[0] == "COMPLETE"
    tuning = replace(
        cheap(
            lambda params: 0.0 if value_at(params, "fine_tuning.learning_rate") == 0.001 else 1.0, trials=2
        ),
        name="bad first",
    )
    assert running.tune(tuning, tmp_path / "tuned.yaml").trials[0].state.name == "COMPLETE"


def test_a_trial_that_fails_is_named_and_the_study_goes_on(cheap: Cheap, tmp_path: Path) -> None:
    calls = iter(range(100))

    def fails(params: Params) -> float:
        number = next(calls)
        if number == 1:
            raise GraftError("fine_tuning: training diverged", "lower the rate")
        if number == 2:
            raise RuntimeError("out of memory")
        return towards_small_rates(params)

    tuning = cheap(fails, trials=4, prune=False)
    study = running.tune(tuning, tmp_path / "tuned.yaml")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL", "FAIL", "COMPLETE"]
    from rich.console import Console

    with (console := Console(width=200)).capture() as captured:
        console.print(results_page(tuning, study, tmp_path / "tuned.yaml"))
    for words in ("training diverged", "lower the rate", "RuntimeError: out of memory", "0 (params.yaml)"):
        assert words in captured.get()


def test_when_every_trial_fails_the_first_problem_is_the_error(cheap: Cheap, tmp_path: Path) -> None:
    def fails(_: Params) -> float:
        raise GraftError("no room", "make room")

    with pytest.raises(GraftError, match="no room") as caught:
        running.tune(cheap(fails, trials=2), tmp_path / "tuned.yaml")
    assert caught.value.fix == "make room"


def lose_one(tuning: Tuning) -> optuna.Study:
    """Begin a trial whose process then dies."""
    study = open_study(tuning)
    trial = study.ask()
    trial.suggest_float("fine_tuning.learning_rate", 0.0001, 0.01, log=True)
    if not trial.study.trials[trial.number].intermediate_values:
        trial.report(0.3, 1)
    with in_progress(tuning.folder / f"trial-{trial.number}"):
        queue_lost(study, tuning.folder)
        assert not abandoned(tuning.folder / f"trial-{trial.number}")
        assert study.trials[trial.number].state.name == "RUNNING"  # its process lives
    return study


def test_a_trial_whose_process_died_runs_again_with_its_values(cheap: Cheap, tmp_path: Path) -> None:
    tuning = cheap(towards_small_rates, trials=3, prune=False)
    lost = lose_one(tuning).trials[0]
    study = running.tune(tuning, tmp_path / "tuned.yaml")
    again = next(trial for trial in study.trials if trial.user_attrs.get("repeats") == 0)
    assert again.params == lost.params
    assert sorted(again.intermediate_values) == [1, 2, 3]  # the first epoch was not trained again
    assert again.intermediate_values[1] == 0.3
    assert finished(study) == 3
    assert sum(trial.user_attrs.get("repeats") == 0 for trial in study.trials) == 1


def test_a_trial_that_kills_its_process_is_given_up(cheap: Cheap, tmp_path: Path) -> None:
    tuning = cheap(towards_small_rates, trials=3, prune=False)
    for _ in range(3):
        study = lose_one(tuning)
        queue_lost(study, tuning.folder)
    assert len(study.trials) == 3
    assert finished(study) == 1
    study = running.tune(tuning, tmp_path / "tuned.yaml")
    assert finished(study) == 3


@pytest.mark.parametrize("url", ["postgresql+psycopg2://ada:secret@127.0.0.1:1/graft", "nodatabase://x", "x"])
def test_a_storage_that_cannot_be_used_is_named_without_its_password(cheap: Cheap, url: str) -> None:
    with pytest.raises(GraftError, match="--storage") as caught:
        open_study(cheap(towards_small_rates, storage=url))
    assert "secret" not in str(caught.value)


@pytest.mark.heavy
def test_a_study_in_postgresql(cheap: Cheap, tmp_path: Path, postgres: str) -> None:  # noqa: F811
    tuning = cheap(towards_small_rates, storage=f"{postgres}/auth", trials=3, prune=False)
    lose_one(tuning)
    study = running.tune(tuning, tmp_path / "tuned.yaml")
    assert finished(study) == 3
    assert study.trials[1].user_attrs["repeats"] == 0 or study.trials[2].user_attrs["repeats"] == 0
    running.tune(cheap(towards_small_rates, storage=f"{postgres}/auth", trials=5), tmp_path / "tuned.yaml")
    assert finished(open_study(tuning)) == 5


# Studies that train


@pytest.fixture(scope="module")
def place(two_domains: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, tiny parameters and an MLflow that has its tables."""
    folder = tmp_path_factory.mktemp("tuning")
    shutil.copytree(two_domains, folder / "data")
    tiny = {**TINY, "fine_tuning": {"head_epochs": 1, "epochs": 1, "batch_size": 16, "learning_rate": 0.001}}
    tiny["feature_extraction"] = {"path": 2}
    tiny["registry"] = {"model_name": "tiny", "tracking_uri": f"sqlite:///{folder}/mlflow.db"}
    (folder / "params.yaml").write_text(yaml.safe_dump(tiny))
    reach(f"sqlite:///{folder}/mlflow.db")
    return folder


@pytest.fixture
def tune(place: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    monkeypatch.chdir(place)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("GRAFT_HOME", raising=False)
    monkeypatch.delenv("GRAFT_RUN", raising=False)

    def call(*options: str, **content: Any) -> str:
        search_file(place, **content)
        arguments = ["--search", "search.yaml", *options]
        done = CliRunner().invoke(command, arguments, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    return call


def test_a_study_trains_reuses_and_is_logged(tune: Callable[..., str], place: Path) -> None:
    text = tune("--set", "fine_tuning.method=head_only", trials=2)
    assert "study tiny-fine_tuned" in text
    assert "0 (params.yaml)" in text
    read_params([place / "params.yaml", place / "tuned.yaml"])

    steps = [read_json(file) for file in sorted(place.glob("runs/tuning/tiny-fine_tuned/trial-1/steps/*"))]
    reused = {record["step"]: record["reused"] for record in steps}
    before = dict.fromkeys(("augmentation", "backbone", "data_validation", "feature_extraction"), True)
    assert reused == {**before, "fine_tuning": False}
    assert not list(place.glob("runs/tuning/*/*/artifacts"))

    client = mlflow.MlflowClient(f"sqlite:///{place}/mlflow.db")
    (experiment,) = (found for found in client.search_experiments() if found.name == "graft")
    runs = client.search_runs([experiment.experiment_id])
    (study,) = (run for run in runs if "graft.study" in run.data.tags)
    trials = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == study.info.run_id]
    assert {run.data.tags["graft.trial"] for run in trials} == {"0", "1"}
    for run in trials:
        assert run.info.status == "FINISHED"
        assert 0.0001 <= float(run.data.params["fine_tuning.learning_rate"]) <= 0.01
        assert {"val_accuracy", "val_loss", "epoch_val_accuracy"} <= set(run.data.metrics)
    assert study.info.status == "FINISHED"
    assert study.data.metrics["val_accuracy"] == max(run.data.metrics["val_accuracy"] for run in trials)
    assert {file.path for file in client.list_artifacts(study.info.run_id)} >= {"tuned.yaml", "trials.png"}


def test_a_trial_that_is_pruned_or_diverges_leaves_nothing_in_the_store(
    tune: Callable[..., str], place: Path
) -> None:
    def kept() -> set[Path]:
        return {file for step in ("cache", "work") for file in place.glob(f".graft/{step}/fine_tuning/*")}

    wild = {"fine_tuning.learning_rate": {"low": 1e30, "high": 1e35, "log": True}}
    head = ("--set", "fine_tuning.method=head_only", "--study", "wild")
    tune(*head, search=wild, trials=1)
    before = kept()
    text = tune(*head, search=wild, trials=2, prune_after_trials=1, prune_after_epochs=0)
    assert "diverged" in text or "pruned after" in text
    assert kept() - before == set()


def test_labels_of_test_images_play_no_part(tune: Callable[..., str], place: Path) -> None:
    spans = {"feature_extraction.weakest": {"low": 0.001, "high": 100.0, "log": True}}
    options: dict[str, Any] = {"search": spans, "objective": "probe", "trials": 2}
    scores = []
    for data in ("data", "swapped"):
        if data == "swapped":
            shutil.copytree(place / "data", place / data)
            test = place / data / "target" / "test"
            for old, new in (("bar", "x"), ("disc", "bar"), ("x", "disc")):
                (test / old).rename(test / new)
        tune("--study", data, "--data", data, **options)
        study = optuna.load_study(study_name=data, storage=f"sqlite:///{place}/runs/tuning/{data}.db")
        scores.append([(trial.value, trial.user_attrs["val_loss"], trial.params) for trial in study.trials])
    assert scores[0] == scores[1]


@pytest.mark.heavy
@pytest.mark.timeout(600)
def test_two_workers_share_a_study(tune: Callable[..., str], place: Path) -> None:
    spans = {"feature_extraction.weakest": {"low": 0.001, "high": 100.0, "log": True}}
    tune("--study", "shared", "--workers", "2", search=spans, objective="probe", trials=5)
    study = optuna.load_study(study_name="shared", storage=f"sqlite:///{place}/runs/tuning/shared.db")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 5
    assert len({trial.params["feature_extraction.weakest"] for trial in study.trials}) == 5


def _busy(study: optuna.Study, folder: Path) -> bool:
    running_now = [trial for trial in study.trials if trial.state.name == "RUNNING"]
    return any(not abandoned(folder / f"trial-{trial.number}") for trial in running_now)


@pytest.mark.heavy
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("workers", "how"), [(1, signal.SIGINT), (2, signal.SIGKILL)])
def test_killed_in_a_trial_and_run_again(
    tune: Callable[..., str], place: Path, how: signal.Signals, workers: int
) -> None:
    name = f"killed-{how.name}-{workers}"
    own = f"fine_tuning.seed={10 * how + workers}"  # else the other cases' trainings are reused
    options = ("--study", name, "--set", own, "--set", "fine_tuning.epochs=4", "--workers", str(workers))
    search_file(place, trials=3, prune=False)
    program = "from pipelines.commands_tuning import tune; tune()"
    process = subprocess.Popen(
        [sys.executable, "-c", program, "--search", "search.yaml", *options],
        cwd=place,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background shell ignores it
        start_new_session=True,
    )
    log = place / "runs" / "tuning" / name / "trial-1" / "log.txt"
    end = time.monotonic() + 300
    while time.monotonic() < end and not (log.exists() and "all: epoch 1" in log.read_text()):
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.05)
    process.send_signal(how)
    process.communicate()
    study = optuna.load_study(study_name=name, storage=f"sqlite:///{place}/runs/tuning/{name}.db")
    first = study.trials[1].params
    while time.monotonic() < end and _busy(study, place / "runs" / "tuning" / name):
        time.sleep(0.2)  # workers finish their trial and stop when their parent is gone
    text = tune(*options, trials=3, prune=False)
    assert "3 trials" in text
    search = read_search(place / "search.yaml", Params())
    assert isinstance(search, Search)
    counted = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    assert len(counted) == 3
    assert any(trial.params == first for trial in counted)
