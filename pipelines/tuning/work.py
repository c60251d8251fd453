"""A worker: it asks Optuna for values, runs the trial, and tells how it went."""

from __future__ import annotations

import multiprocessing
import threading
from multiprocessing.synchronize import Semaphore
from typing import TYPE_CHECKING, Any

from graft.errors import GraftError
from graft.params import Params
from graft.progress import say
from pipelines.search import Dimension, with_values
from pipelines.tuning.log import Log
from pipelines.tuning.queue import begun, inside
from pipelines.tuning.results import outcome
from pipelines.tuning.study import Tuning, open_study, quietly
from pipelines.tuning.trial import in_progress, score_trial

if TYPE_CHECKING:
    from optuna import Study
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial, Trial


def work(tuning: Tuning, log: Log, tickets: Semaphore | threading.Semaphore, worker: int) -> None:
    """Take a ticket and run a trial, until no ticket is left. A trial that fails ends nothing else.

    Raises:
        GraftError: the storage cannot be used.
    """
    study = open_study(tuning)

    def objective(trial: Trial) -> float:
        return _try(tuning, trial)

    def tell(study: Study, trial: FrozenTrial) -> None:
        say(outcome(study, trial, tuning.search.settings.trials))
        log.trial(tuning, trial)

    while _wanted() and tickets.acquire(False):
        study.sampler = _sampler(tuning, study, worker)
        with quietly():
            study.optimize(objective, n_trials=1, catch=(Exception,), callbacks=[tell])


def _wanted() -> bool:
    """Whether the process that started this worker lives; nobody would collect the results."""
    parent = multiprocessing.parent_process()
    return parent is None or parent.is_alive()


def _sampler(tuning: Tuning, study: Study, worker: int) -> BaseSampler:
    """Seeded anew for each trial, so that a study that was interrupted draws what it would have drawn."""
    import numpy as np
    from optuna.samplers import TPESampler

    entropy = [tuning.search.settings.seed, worker, begun(study)]
    seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
    return TPESampler(seed=seed)


def _try(tuning: Tuning, trial: Trial) -> float:
    """The candidate's validation accuracy; why there is none becomes an attribute of the trial."""
    from optuna import TrialPruned

    baseline = trial.user_attrs.get("baseline", False)
    place = tuning.place(f"trial-{trial.number}")
    done = len(trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values)

    def report(epoch: int, accuracy: float) -> None:
        trial.report(accuracy, epoch)
        if not baseline and trial.should_prune():
            raise TrialPruned

    with in_progress(place.folder):
        try:
            params = _params(tuning, trial, baseline=baseline)
            score = score_trial(params, tuning.search.settings.objective, place, report, done)
        except KeyboardInterrupt:
            trial.set_user_attr("interrupted", True)
            raise
        except TrialPruned:
            raise
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
            known = error if isinstance(error, GraftError) else GraftError(problem, f"see {place.folder}")
            trial.set_user_attr("problem", known.problem)
            trial.set_user_attr("fix", known.fix)
            raise
    trial.set_user_attr("val_loss", score.loss)
    return score.accuracy


def _params(tuning: Tuning, trial: Trial, *, baseline: bool) -> Params:
    """The trial's parameters: those it starts from under the values that Optuna suggests."""
    dimensions = tuning.search.dimensions
    wanted = inside(dimensions, tuning.params) if baseline else dimensions
    values = {each.key: each.value(_suggest(trial, each)) for each in wanted}
    # The model trained from scratch is no candidate, and takes as long as one.
    return with_values(tuning.params, {**values, "fine_tuning.baseline": False})


def _suggest(trial: Trial, dimension: Dimension) -> Any:
    if dimension.kind == "choice":
        return trial.suggest_categorical(dimension.key, [dimension.stored(one) for one in dimension.choices])
    if dimension.kind == "int":
        return trial.suggest_int(dimension.key, int(dimension.low), int(dimension.high), log=dimension.log)
    return trial.suggest_float(dimension.key, dimension.low, dimension.high, log=dimension.log)
