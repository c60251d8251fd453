"""A picture of a study: the score over time, and over each searched key."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.files import whole_file
from graft.images.canvas import BLUE, INK, ORANGE, new_figure
from pipelines.search import Dimension
from pipelines.tuning.results import best_trial, ranked, values_of
from pipelines.tuning.study import Tuning

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from optuna import Study


def draw_trials(tuning: Tuning, study: Study, path: Path) -> Path:
    """Draw the scored trials as PNG; the best one is orange, in every panel.

    Raises:
        GraftError: every trial failed.
    """
    best = best_trial(study)
    dimensions = tuning.search.dimensions
    figure, (history, *panels) = new_figure(
        3.2 * (1 + len(dimensions)), 3.0, 1 + len(dimensions), across=True
    )
    for axes in (history, *panels):
        axes.grid(color="#dddddd")
    scored = sorted(ranked(study), key=lambda trial: trial.number)
    numbers, values = [trial.number for trial in scored], [trial.value or 0.0 for trial in scored]
    so_far = [max(values[: position + 1]) for position in range(len(values))]
    history.step(numbers, so_far, where="post", color=INK, linewidth=1, label="best so far")
    history.legend(frameon=False, fontsize=8, loc="lower right")
    history.set(xlabel="trial", ylabel=f"validation accuracy of {tuning.search.settings.objective}")
    _points(history, numbers, values, scored.index(best))
    for axes, dimension in zip(panels, dimensions, strict=True):
        tried = [values_of(tuning, trial)[dimension.key] for trial in scored]
        _points(axes, _across(axes, dimension, tried), values, scored.index(best))
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150, facecolor="white")
    return path


def _across(axes: Axes, dimension: Dimension, tried: list[Any]) -> list[Any]:
    """Where the tried values of a key lie; choices stand side by side."""
    axes.set_xlabel(dimension.key)
    if dimension.kind != "choice":
        axes.set_xscale("log" if dimension.log else "linear")
        axes.xaxis.set_minor_formatter("")
        return tried
    names = [str(choice) for choice in dimension.choices]
    names += sorted({str(value) for value in tried} - set(names))  # params.yaml's own may be another
    axes.set_xticks(range(len(names)), names)
    return [names.index(str(value)) for value in tried]


def _points(axes: Axes, across: list[Any], values: list[float], best: int) -> None:
    axes.scatter(across, values, color=BLUE, s=18, zorder=2)
    axes.scatter([across[best]], [values[best]], color=ORANGE, s=40, zorder=3)
