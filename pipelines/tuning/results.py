"""What a study found: the ranking, the overlay of params.yaml, and the page for the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich.console import Group
from rich.table import Table
from rich.text import Text

from graft.errors import GraftError
from graft.files import whole_file
from pipelines.search import value_at
from pipelines.tuning.queue import finished, is_finished
from pipelines.tuning.study import Tuning

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

SHOWN = 10  # trials in the table


def ranked(study: Study) -> list[FrozenTrial]:
    """The trials with a score: high accuracy first, then low cross-entropy, then the earlier."""
    scored = [trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]
    return sorted(scored, key=lambda trial: (-_value(trial), trial.user_attrs["val_loss"], trial.number))


def best_trial(study: Study) -> FrozenTrial:
    """The first of the ranking.

    Raises:
        GraftError: every trial failed.
    """
    if scored := ranked(study):
        return scored[0]
    problems = [
        trial.user_attrs for trial in study.get_trials(deepcopy=False) if "problem" in trial.user_attrs
    ]
    first = problems[0] if problems else {"problem": "their processes died", "fix": "read their log.txt"}
    raise GraftError(f"no trial of {study.study_name} has a score: {first['problem']}", first["fix"])


def baseline_trial(study: Study) -> FrozenTrial | None:
    """The finished trial of params.yaml as it is."""
    own = [trial for trial in ranked(study) if trial.user_attrs.get("baseline")]
    return own[0] if own else None


def values_of(tuning: Tuning, trial: FrozenTrial) -> dict[str, Any]:
    """A trial's value at each searched key."""
    return {
        each.key: each.value(trial.params[each.key])
        if each.key in trial.params
        else value_at(tuning.params, each.key)
        for each in tuning.search.dimensions
        if each.key in trial.params or trial.user_attrs.get("baseline")
    }


def overlay(tuning: Tuning, study: Study, output: Path) -> str:
    """The best values as YAML to lay over params.yaml, with where they come from as comments."""
    trial, own = best_trial(study), baseline_trial(study)
    settings = tuning.search.settings
    lines = [
        f"# graft tune: study {study.study_name}, trial {trial.number} of {finished(study)}.",
        f"# Validation accuracy of {settings.objective}: {_value(trial):.4f}, "
        + (f"of params.yaml as it was: {_value(own):.4f}." if own else "params.yaml as it was has none."),
        "# The test images were not looked at.",
        f"#   graft retrain --params params.yaml --params {output}",
    ]
    tree: dict[str, Any] = {}
    for key, value in values_of(tuning, trial).items():
        *path, last = key.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    return "\n".join(lines) + "\n" + yaml.safe_dump(tree, sort_keys=False)


def write_overlay(path: Path, text: str) -> None:
    """Write the overlay, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def outcome(study: Study, trial: FrozenTrial, wanted: int) -> str:
    """One line about a trial that has just ended."""
    scored = ranked(study)
    best = f"; best {100 * _value(scored[0]):.1f} % (trial {scored[0].number})" if scored else ""
    values = ", ".join(f"{key} {_short(value)}" for key, value in trial.params.items())
    what = "params.yaml as it is" if trial.user_attrs.get("baseline") else values
    result = _result(trial).partition("\n")[0]
    return f"trial {trial.number}, {finished(study)} of {wanted}: {result} with {what}{best}"


def results_page(tuning: Tuning, study: Study, output: Path) -> Group:
    """The best trials, what failed, and where to look next."""
    best, own = best_trial(study), baseline_trial(study)
    trials = [trial for trial in study.get_trials(deepcopy=False) if is_finished(trial)]
    pruned = sum(trial.state.name == "PRUNED" for trial in trials)
    failed = [trial for trial in trials if trial.state.name == "FAIL"]
    lines = [Text(f"{len(trials)} trials, {pruned} of them pruned, {len(failed)} failed")]
    lines += [Text(f"  ✗ trial {each.number}: {_result(each)}", style="red") for each in failed]
    if own:
        gain = 100 * (_value(best) - _value(own))
        lines.append(Text(f"params.yaml as it is: {100 * _value(own):.1f} %; best: {gain:+.1f} points"))
    else:
        lines.append(Text("params.yaml as it is has no score to compare with", style="red"))
    lines.append(Text(f"Chosen on validation images, so a little flattering. Overlay: {output}"))
    return Group(_table(tuning, study), *lines)


def _table(tuning: Tuning, study: Study) -> Table:
    title = f"Study {study.study_name}: validation accuracy of {tuning.search.settings.objective}"
    table = Table(title=title, title_justify="left")
    keys = [each.key.replace(".", ".\n") for each in tuning.search.dimensions]
    for column in ("trial", "accuracy", "loss", *keys, "seconds"):
        table.add_column(column, justify="right", no_wrap=True)
    scored = ranked(study)
    own = baseline_trial(study)
    rows = scored[:SHOWN] if own in scored[:SHOWN] or own is None else [*scored[:SHOWN], own]
    for trial in rows:
        name = f"{trial.number} (params.yaml)" if trial is own else str(trial.number)
        values = [_short(value) for value in values_of(tuning, trial).values()]
        numbers = (f"{100 * _value(trial):.1f} %", f"{trial.user_attrs['val_loss']:.3f}")
        seconds = f"{trial.duration.total_seconds():.0f}" if trial.duration else ""
        table.add_row(name, *numbers, *values, seconds, style="bold" if trial is scored[0] else "")
    return table


def _value(trial: FrozenTrial) -> float:
    assert trial.value is not None
    return trial.value


def _result(trial: FrozenTrial) -> str:
    if trial.state.name == "COMPLETE":
        return f"{100 * _value(trial):.1f} %"
    if trial.state.name == "PRUNED":
        return f"pruned after {len(trial.intermediate_values)} epochs"
    problem = trial.user_attrs.get("problem", "its process died each time")
    return f"failed: {problem}" + (f"\n    {fix}" if (fix := trial.user_attrs.get("fix")) else "")


def spelled(value: Any) -> str:
    """A value as people read it: params.yaml calls "auto" what is chosen by rule."""
    return "auto" if value is None else str(value)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else spelled(value)
