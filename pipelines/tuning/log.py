"""A study in MLflow: one run for it, and one run below that for each trial."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.errors import GraftError
from graft.params import Registry
from graft.progress import say
from graft.registry.tracking import answering, experiment_id, reach, tracking_uri, using
from pipelines.tuning.results import baseline_trial, best_trial, spelled, values_of
from pipelines.tuning.study import Tuning

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from optuna import Study
    from optuna.trial import FrozenTrial

STATUS = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}  # MLflow's word for Optuna's


@dataclass(frozen=True)
class Log:
    """Where the trials of a study are logged.

    Attributes:
        uri: MLflow's.
        experiment: Its id.
        run: The study's run.
    """

    uri: str
    experiment: str
    run: str

    def trial(self, tuning: Tuning, trial: FrozenTrial) -> None:
        """Log a trial that has ended; a server that is away by now costs the run, not the trial."""
        try:
            with using(self.uri), answering(self.uri, f"log trial {trial.number}"):
                self._trial(_client(self.uri), tuning, trial)
        except GraftError as error:
            say(f"trial {trial.number} counts, but {error.problem}")

    def _trial(self, client: MlflowClient, tuning: Tuning, trial: FrozenTrial) -> None:
        from mlflow.entities import Metric, Param

        tags = {
            "mlflow.parentRunId": self.run,
            "graft.trial": str(trial.number),
            "graft.state": trial.state.name.lower(),
            **{f"graft.{key}": str(value) for key, value in trial.user_attrs.items() if key != "val_loss"},
        }
        start, end = _milliseconds(trial.datetime_start), _milliseconds(trial.datetime_complete)
        run = client.create_run(self.experiment, start, tags, f"trial {trial.number}").info.run_id
        epochs = [
            Metric("epoch_val_accuracy", v, end, s) for s, v in sorted(trial.intermediate_values.items())
        ]
        if trial.value is not None and "val_loss" in trial.user_attrs:
            epochs.append(Metric("val_accuracy", trial.value, end, 0))
            epochs.append(Metric("val_loss", trial.user_attrs["val_loss"], end, 0))
        params = [Param(key, spelled(value)) for key, value in values_of(tuning, trial).items()]
        client.log_batch(run, metrics=epochs, params=params)
        client.set_terminated(run, STATUS[trial.state.name], end)

    def study(self, study: Study, tuning: Tuning, texts: Mapping[str, str], files: list[Path]) -> None:
        """Log how a study ended.

        Raises:
            GraftError: MLflow does not answer.
        """
        best, own = best_trial(study), baseline_trial(study)
        with using(self.uri), answering(self.uri, "log the study"):
            client = _client(self.uri)
            client.log_metric(self.run, "val_accuracy", best.value or 0.0)
            client.set_tag(self.run, "graft.best_trial", best.number)
            if own:
                client.log_metric(self.run, "val_accuracy.params_as_they_were", own.value or 0.0)
            for key, value in values_of(tuning, best).items():
                client.set_tag(self.run, f"best.{key}", spelled(value))
            for name, text in texts.items():
                client.log_text(self.run, text, name)
            for file in files:
                client.log_artifact(self.run, str(file))
            client.set_terminated(self.run, "FINISHED")


def start_log(study: Study, registry: Registry) -> Log:
    """The study's run, the one it had before where MLflow still has it.

    Raises:
        GraftError: MLflow cannot be used.
    """
    uri = tracking_uri(registry)
    client = reach(uri)
    with using(uri), answering(uri, "log the study"):
        experiment = experiment_id(client, uri, registry.experiment)
        run = _known_run(client, study.user_attrs.get("mlflow_run"))
        if run is None:
            tags = {"graft.study": study.study_name}
            run = client.create_run(experiment, tags=tags, run_name=f"tune {study.study_name}").info.run_id
            study.set_user_attr("mlflow_run", run)
        client.update_run(run, "RUNNING")
    return Log(uri, experiment, run)


def stop_log(log: Log, status: str) -> None:
    """Say in MLflow that nobody works on the study any more, if MLflow listens."""
    with suppress(GraftError), using(log.uri), answering(log.uri, "log the study"):
        _client(log.uri).set_terminated(log.run, status)


def _known_run(client: MlflowClient, run: str | None) -> str | None:
    from mlflow.exceptions import MlflowException

    try:
        alive = run is not None and client.get_run(run).info.lifecycle_stage == "active"
    except MlflowException:
        alive = False
    return run if alive else None


def _client(uri: str) -> MlflowClient:
    from mlflow import MlflowClient

    return MlflowClient(uri)


def _milliseconds(moment: Any) -> int:
    return int(1000 * (moment.timestamp() if moment else time.time()))
