"""Which trials of a study count, and which are to be run (again)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from graft.params import Params
from pipelines.search import Dimension, value_at
from pipelines.tuning.trial import abandoned

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

ATTEMPTS = 3  # at a trial whose process dies


def is_finished(trial: FrozenTrial) -> bool:
    """Whether a trial counts: it has a value, was pruned, or failed by its own fault.

    One that was interrupted, or whose process died, does not: it is run again.
    """
    if trial.state.name == "FAIL":
        return "problem" in trial.user_attrs or _hopeless(trial)
    return trial.state.is_finished()


def finished(study: Study) -> int:
    """How many trials count."""
    return sum(map(is_finished, study.get_trials(deepcopy=False)))


def begun(study: Study) -> int:
    """How many trials count, or will when who is busy with them has finished."""
    running = sum(trial.state.name == "RUNNING" for trial in study.get_trials(deepcopy=False))
    return finished(study) + running


def queue_baseline(study: Study, dimensions: Sequence[Dimension], params: Params) -> None:
    """The first trial is params.yaml as it is, also where its values are outside the search."""
    if study.get_trials(deepcopy=False):
        return
    own = {each.key: each.stored(value_at(params, each.key)) for each in inside(dimensions, params)}
    study.enqueue_trial(own, user_attrs={"baseline": True})


def inside(dimensions: Sequence[Dimension], params: Params) -> list[Dimension]:
    """The dimensions that hold the value which params.yaml has already."""
    return [each for each in dimensions if each.holds(value_at(params, each.key))]


def queue_lost(study: Study, folder: Path) -> None:
    """Queue again what was interrupted or lost its process on this machine."""
    from optuna.trial import TrialState

    for trial in study.get_trials(deepcopy=False):
        if trial.state == TrialState.RUNNING and abandoned(folder / f"trial-{trial.number}"):
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
    trials = study.get_trials(deepcopy=False)
    repeated = {trial.user_attrs.get("repeats") for trial in trials}
    for trial in trials:
        if trial.state.name == "FAIL" and not is_finished(trial) and trial.number not in repeated:
            requeue(study, trial)


def requeue(study: Study, trial: FrozenTrial) -> None:
    """Queue a lost trial's values once more; it goes on from its last checkpoint."""
    from optuna.trial import TrialState, create_trial

    if _hopeless(trial):
        return
    attempt = trial.user_attrs.get("attempt", 1) + ("interrupted" not in trial.user_attrs)
    attributes = {"baseline": trial.user_attrs.get("baseline", False)}
    study.add_trial(
        create_trial(
            state=TrialState.WAITING,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs={**attributes, "repeats": trial.number, "attempt": attempt},
            system_attrs=trial.system_attrs,
            intermediate_values=trial.intermediate_values,
        )
    )


def _hopeless(trial: FrozenTrial) -> bool:
    return "interrupted" not in trial.user_attrs and trial.user_attrs.get("attempt", 1) >= ATTEMPTS
