"""The report's figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from graft.images.canvas import BLUE, INK, LINE, ORANGE, new_figure, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NUMBERS_UP_TO = 12  # classes: beyond, the cells of a confusion matrix are too small for numbers
NAMES_UP_TO = 40


def confusion_figure(confusion: np.ndarray, classes: Sequence[str]) -> str:
    """Counts (C, C) as a grid: blue on the diagonal, orange off it, the deeper the larger share of a row."""
    count = len(classes)
    side = float(np.clip(0.42 * count + 1.8, 3.6, 9.0))
    figure, (axes,) = new_figure(side, side, 1)
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    axes.imshow(_cells(share), interpolation="none")
    if count <= NUMBERS_UP_TO:
        for row, column in zip(*np.nonzero(confusion), strict=True):
            text = f"{confusion[row, column]}"
            axes.text(column, row, text, ha="center", va="center", fontsize=9, color=INK)
    if count <= NAMES_UP_TO:
        names = [_short(name) for name in classes]
        axes.set_xticks(range(count), names, rotation=0 if _narrow(names) else 90, parse_math=False)
        axes.set_yticks(range(count), names, parse_math=False)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.grid(visible=False)
    axes.tick_params(length=0)
    if count <= NAMES_UP_TO:
        axes.set_xticks(np.arange(count + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(count + 1) - 0.5, minor=True)
        axes.grid(which="minor", color=LINE, linewidth=0.6)
        axes.tick_params(which="minor", length=0)
    return to_svg(figure, f"confusion matrix of {count} classes")


def reliability_figure(reliability: np.ndarray) -> str:
    """Share right against probability, and images per bin; (bins, 3) as `scores.calibration` gives it."""
    images, confidence, accuracy = reliability.T
    figure, (upper, lower) = new_figure(4.4, 4.4, 2, heights=(3, 1))
    width, filled = 1 / len(images), images > 0
    centres = (np.arange(len(images)) + 0.5) * width
    upper.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=(0, (4, 3)), label="perfectly calibrated")
    upper.bar(centres[filled], accuracy[filled], 0.86 * width, color=BLUE, label="share predicted right")
    gap = (accuracy - confidence)[filled]
    upper.bar(
        centres[filled],
        gap,
        0.86 * width,
        bottom=confidence[filled],
        facecolor="none",
        edgecolor=ORANGE,
        linewidth=1.2,
        label="gap to its probability",
    )
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="share right")
    _legend(upper, loc="upper left")
    lower.bar(centres, images, 0.86 * width, color=BLUE)
    lower.set(xlim=(0, 1), xlabel="probability of the predicted class", ylabel="images")
    return to_svg(figure, "reliability diagram")


def curves_figure(name: str, history: Sequence[Mapping[str, Any]]) -> str | None:
    """Loss and accuracy over epochs, or over regularisation strengths; None where no row has either."""
    history = [row for row in history if "epoch" in row or "C" in row]
    panels = [
        ("loss", {"loss": "training", "val_loss": "validation"}),
        ("accuracy", {"train_accuracy": "training", "val_accuracy": "validation"}),
    ]
    drawn = [(label, series) for label, series in panels if any(_values(history, key) for key in series)]
    if not drawn:
        return None
    figure, several = new_figure(2.7 * len(drawn), 2.3, len(drawn), across=True)
    strengths = all("C" in row for row in history)
    for axes, (label, series) in zip(several, drawn, strict=True):
        for key, colour, marker in zip(series, (BLUE, ORANGE), ("o", "s"), strict=True):
            if points := _values(history, key):
                x, y = zip(*points, strict=True)
                where = [history[i]["C"] for i in x] if strengths else [i + 1 for i in x]
                axes.plot(where, y, color=colour, marker=marker, markersize=3, label=series[key])
        axes.set(xlabel="C (inverse regularisation)" if strengths else "epoch", ylabel=label)
        if strengths:
            axes.set_xscale("log")
        else:
            _mark_phases(axes, history)
        _legend(axes, loc="best")
    return to_svg(figure, f"training curves of {name}")


def adaptation_figure(
    states: Sequence[Mapping[str, Any]], history: Sequence[Mapping[str, Any]], chosen: int
) -> str:
    """Accuracy of both domains at every state, and what the method tells of its own over the epochs.

    Args:
        states: Scores, the start first.
        history: Rows of the training; may be empty, or without domain_loss and confident.
        chosen: The state that was kept; marked.
    """
    accuracies = {"source_accuracy": ("source", BLUE), "target_accuracy": ("target", ORANGE)}
    terms = {
        "domain_loss": ("domain loss", BLUE),
        "confident": ("share that teaches", BLUE),
        "lambda": ("lambda", ORANGE),
    }
    panels = [("accuracy", accuracies, states, 0), ("", terms, history, 1)]
    drawn = [panel for panel in panels if any(_values(panel[2], key) for key in panel[1])]
    figure, several = new_figure(3.4 * len(drawn), 2.5, len(drawn), across=True)
    for axes, (label, series, rows, first) in zip(several, drawn, strict=True):
        for key, (name, colour) in series.items():
            if points := _values(rows, key):
                x, y = zip(*points, strict=True)
                marker = "o" if colour == BLUE else "s"
                axes.plot([i + first for i in x], y, color=colour, marker=marker, markersize=3, label=name)
        axes.axvline(chosen, color=INK, linewidth=0.8, linestyle=(0, (4, 3)), label="kept")
        axes.set(xlabel="epoch of adaptation (0: the start)", ylabel=label)
        # Above: the curves may be anywhere below.
        _legend(axes, loc="above")
    return to_svg(figure, "accuracy of both domains, and the method's own terms, during adaptation")


def domains_figure(embeddings: Mapping[str, np.ndarray], target: np.ndarray) -> str:
    """Feature maps side by side.

    Args:
        embeddings: (N, 2) by title.
        target: bool (N,): whether an image is of the target domain.
    """
    figure, several = new_figure(5.4 * len(embeddings), 4.8, len(embeddings), across=True)
    for axes, (title, points) in zip(several, embeddings.items(), strict=True):
        groups = (("source", ~target, BLUE, "o"), ("target", target, ORANGE, "^"))
        for name, chosen, colour, marker in groups:
            style: dict[str, Any] = {
                "markersize": 4,
                "markeredgewidth": 0,
                "alpha": 0.7,
                "linestyle": "",
                "label": name,
            }
            axes.plot(*points[chosen].T, marker=marker, color=colour, **style)
        axes.set_title(title, fontsize=10, color=INK)
        axes.set(xticks=[], yticks=[])
    _legend(several[0], loc="best")
    return to_svg(figure, "features of both domains")


def _cells(share: np.ndarray) -> np.ndarray:
    right = np.eye(len(share), dtype=bool)[..., None]
    colour = np.where(right, _rgb("#3a8ec4"), _rgb("#e0762c"))
    strength = 0.85 * share[..., None] ** 0.6  # lifts the few errors out of the background
    return np.concatenate([colour, strength], axis=2)


def _rgb(colour: str) -> np.ndarray:
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255


def _values(history: Sequence[Mapping[str, Any]], key: str) -> list[tuple[int, float]]:
    rows = ((i, row.get(key)) for i, row in enumerate(history))
    return [(i, float(value)) for i, value in rows if value is not None and np.isfinite(value)]


def _mark_phases(axes: Axes, history: Sequence[Mapping[str, Any]]) -> None:
    from matplotlib.ticker import MaxNLocator

    phases = [row.get("phase") for row in history]
    for i, phase in enumerate(phases):
        if i and phase != phases[i - 1]:
            axes.axvline(i + 0.5, color=INK, linewidth=0.8, linestyle=(0, (1, 2)))
        if phase and (i == 0 or phase != phases[i - 1]) and len(set(phases)) > 1:
            axes.annotate(
                str(phase), (i + 0.6, 1.01), xycoords=("data", "axes fraction"), fontsize=8, color=INK
            )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))


def _legend(axes: Axes, loc: Literal["best", "upper left", "above"]) -> None:
    above = loc == "above"
    place: dict[str, Any] = (
        {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": 3} if above else {"loc": loc}
    )
    legend = axes.legend(**place, fontsize=8, labelcolor=INK, frameon=False)
    legend.set_in_layout(above)


def _short(name: str, limit: int = 18) -> str:
    return name if len(name) <= limit else f"{name[: limit - 1]}…"


def _narrow(names: Sequence[str]) -> bool:
    return max(map(len, names)) <= 4
