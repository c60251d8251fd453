"""A study: what it is about, and where Optuna keeps it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.errors import GraftError
from graft.params import Params
from graft.registry.registration import flat
from pipelines.chain import sections_of, steps_to
from pipelines.search import Search
from pipelines.tuning.queue import requeue
from pipelines.tuning.trial import Place

if TYPE_CHECKING:
    from optuna import Study
    from optuna.pruners import BasePruner
    from optuna.storages import RDBStorage

HEARTBEAT, SILENCE = 60, 240  # seconds between signs of life, and without one until a trial counts as lost


@dataclass(frozen=True)
class Tuning:
    """What every worker of a study needs to know.

    Attributes:
        name: The study's.
        search: What is searched.
        params: Where it starts.
        data: The data folder.
        folder: Gets one folder a trial.
        storage: URL of Optuna's database.
        workers: Processes on this machine.
    """

    name: str
    search: Search
    params: Params
    data: Path
    folder: Path
    storage: str
    workers: int = 1

    def place(self, trial: str) -> Place:
        """Where a trial works."""
        return Place(self.data, self.folder / trial, self.folder / "locks")


def open_study(tuning: Tuning) -> Study:
    """The study in its storage; it is made where there is none.

    Raises:
        GraftError: the storage cannot be used.
    """
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    from graft.registry.tracking import shown

    optuna.logging.set_verbosity(optuna.logging.CRITICAL)  # graft has its own line for each trial
    try:
        return optuna.create_study(
            storage=_storage(tuning.storage),
            study_name=tuning.name,
            direction="maximize",
            load_if_exists=True,
            pruner=_pruner(tuning.search),
        )
    except (SQLAlchemyError, ImportError, OSError, RuntimeError) as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise GraftError(
            f"--storage {shown(tuning.storage)} cannot be used: {reason}",
            "give sqlite:///FILE.db, or postgresql+psycopg2://USER@HOST/DATABASE of a server that runs",
        ) from error


def _storage(url: str) -> RDBStorage:
    from optuna.storages import RDBStorage

    from graft.registry.tracking import sqlite_file

    file = sqlite_file(url)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        return RDBStorage(url, engine_kwargs={"connect_args": {"timeout": 60}})
    with quietly():  # trials of other machines may be lost, and only their silence tells
        return RDBStorage(
            url,
            heartbeat_interval=HEARTBEAT,
            grace_period=SILENCE,
            heartbeat_stale_trial_callback=requeue,
        )


def _pruner(search: Search) -> BasePruner:
    from optuna.pruners import MedianPruner, NopPruner

    settings = search.settings
    if not settings.prune:
        return NopPruner()
    return MedianPruner(settings.prune_after_trials, settings.prune_after_epochs)


@contextmanager
def quietly() -> Iterator[None]:
    """Optuna warns that its heartbeat may change in another version."""
    from optuna.exceptions import ExperimentalWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield


def settle(study: Study, tuning: Tuning, data_md5: str) -> None:
    """Write down what a study is about, or compare: scores of different things must not mix.

    Raises:
        GraftError: the study was begun with other data, parameters or ranges.
    """
    facts = _facts(tuning, data_md5)
    known = study.user_attrs.get("facts")
    if known is None:
        study.set_user_attr("facts", facts)
        return
    for key in [*known, *facts]:
        if known.get(key) != facts.get(key):
            raise GraftError(
                f"study {tuning.name} was begun with {key} = {known.get(key)}, now it is {facts.get(key)}",
                "give a new study a name with --study, or go on with what this one was begun with",
            )


def _facts(tuning: Tuning, data_md5: str) -> dict[str, Any]:
    settings = tuning.search.settings
    values = tuning.params.model_dump(mode="json")
    used = {name: values[name] for name in sections_of(steps_to(settings.objective))}
    searched = {f"search.{key}": value for key, value in settings.search.items()}
    return {"data": data_md5, "objective": settings.objective, **searched, **dict(flat(used))}
