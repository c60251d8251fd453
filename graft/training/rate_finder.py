"""The learning-rate range test (Smith 2017): one short run whose rate grows until the loss explodes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import nn

from graft.errors import GraftError
from graft.files import whole_file
from graft.images.canvas import BLUE, ORANGE, new_figure, to_svg
from graft.training.groups import adamw, same_rate, set_rate
from graft.training.loop import Loss, measure, take_step

EXPLODED = 4.0  # times the best smoothed loss
# A window that looks both ways: a running mean would lag, and so name a rate that is too high.
WINDOW = np.array([1.0, 2.0, 3.0, 4.0, 3.0, 2.0, 1.0])
# A file stands alone, so it brings the colours that a page of graft would give.
COLOURS = (
    "<style>svg{--ink:#1b1f24;--line:#d8dde3;--blue:#0072b2;--orange:#d55e00;background:#fff}"
    "@media(prefers-color-scheme:dark){svg{--ink:#e6e9ee;--line:#3a424d;background:#14181d}}</style>"
)


@dataclass(frozen=True)
class RateSearch:
    """What a range test saw.

    Attributes:
        rates: float64 (n,), growing.
        losses: float64 (n,), at each rate, before the step with it.
        smoothed: float64 (n,), the losses averaged over their neighbours, batches made equally hard.
        suggestion: The rate at which the smoothed loss fell fastest.
    """

    rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray
    suggestion: float


def find_rate(
    model: nn.Module,
    loss: Loss,
    *,
    lowest: float = 1e-7,
    highest: float = 1.0,
    steps: int = 60,
    weight_decay: float = 0.0,
    rates: Callable[[str], float] = same_rate,
    seed: int = 0,
) -> RateSearch:
    """Train with a rate that grows from `lowest` to `highest`, and read off where learning is fastest.

    The suggestion is the rate of the steepest descent of the smoothed loss over the logarithm of the
    rate, before its minimum: meant as a peak for a schedule with warm-up. A model that is good already
    improves by less than batches differ, so each batch's loss is held against that of the model before
    the search. The test ends where the loss is four times its best and above its start, or no longer
    finite. Afterwards the model is bit for bit what it was: parameters, buffers and modes. The same
    model, loss and seed give the same search.

    Args:
        model: Its trainable parameters learn.
        loss: As `fit` takes it.
        lowest, highest: Where the rate starts and where it ends at the latest; they differ by decades.
        steps: In all, at equal factors between them.
        weight_decay, rates, seed: As in `Phase`.

    Raises:
        ValueError: not 0 < lowest < highest, or fewer than two steps.
        GraftError: the loss never fell, or was not finite from the start.
    """
    if not (0 < lowest < highest and steps > 1):
        raise ValueError(f"cannot search from {lowest} to {highest} in {steps} steps")
    tried, losses = np.geomspace(lowest, highest, steps), list[float]()
    optimizer = adamw(model, lowest, weight_decay, rates)
    hardness = _hardness(model, loss, steps, seed)
    with _restored(model):
        for step, rate in enumerate(tried):
            set_rate(optimizer, float(rate))
            value = take_step(model, optimizer, loss, step, seed=seed)["loss"]
            if not math.isfinite(value):
                break
            losses.append(value)
            smoothed = smooth(losses - hardness[: len(losses)]) + hardness.mean()
            if smoothed[-1] > max(EXPLODED * smoothed.min(), hardness.mean()):
                break
    return _read_off(tried[: len(losses)], np.array(losses), hardness)


def smooth(values: np.ndarray) -> np.ndarray:
    """Each value averaged with up to three neighbours on either side, the nearer the more: (n,) -> (n,)."""
    inside = slice(len(WINDOW) // 2, -(len(WINDOW) // 2))
    weights = np.convolve(np.ones(len(values)), WINDOW)[inside]
    means: np.ndarray = np.convolve(values, WINDOW)[inside] / weights
    return means


def curve(search: RateSearch) -> str:
    """Loss over rate as SVG for a page of graft, the suggestion marked."""
    figure, (axes,) = new_figure(5.4, 3.0, 1)
    axes.plot(search.rates, search.losses, color=BLUE, alpha=0.35, linewidth=1, label="loss")
    axes.plot(search.rates, search.smoothed, color=BLUE, linewidth=1.8, label="smoothed")
    label = f"steepest at {search.suggestion:.1e}"
    axes.axvline(search.suggestion, color=ORANGE, linewidth=1.4, linestyle=(0, (4, 3)), label=label)
    low, high = search.smoothed.min(), max(search.smoothed[0], search.losses[0])
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss")
    axes.set_ylim(low - 0.1 * (high - low), high + 0.3 * (high - low))  # not the explosion, all else is flat
    axes.legend(frameon=False, fontsize=9, labelcolor="linecolor")
    return to_svg(figure, "learning-rate range test")


def picture(search: RateSearch, path: str | Path) -> Path:
    """Write `curve` as an SVG file that looks right on its own."""
    svg = curve(search)
    head = svg.index(">") + 1
    with whole_file(path) as temporary:
        temporary.write_text(svg[:head] + COLOURS + svg[head:], encoding="utf-8")
    return Path(path)


def _hardness(model: nn.Module, loss: Loss, steps: int, seed: int) -> np.ndarray:
    """The loss of each step's batch before anything is learned, float64 (steps,)."""
    with _restored(model), torch.no_grad():
        values = [measure(model, loss, step, seed=seed)[1]["loss"] for step in range(steps)]
    if not np.isfinite(values).all():
        problem = "the loss is not finite before the first step of the search for a learning rate"
        raise GraftError(problem, "check the images and the weights that training starts from")
    return np.array(values)


def _read_off(rates: np.ndarray, losses: np.ndarray, hardness: np.ndarray) -> RateSearch:
    smoothed = smooth(losses - hardness[: len(losses)]) + hardness.mean()
    if len(losses) < 2 or not smoothed.argmin():
        reached = f"{rates[-1]:.1e}" if len(rates) else "the first step"
        raise GraftError(
            f"the loss never fell while the learning rate grew to {reached}",
            "check the labels and the normalisation of the images, or search among lower rates",
        )
    slopes = np.gradient(smoothed, np.log(rates))[: smoothed.argmin() + 1]
    return RateSearch(rates, losses, smoothed, float(rates[slopes.argmin()]))


@contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """Train within; give the model back its parameters, buffers and modes. Gradients are dropped."""
    before = {name: tensor.detach().clone() for name, tensor in _tensors(model)}
    modes = [(part, part.training) for part in model.modules()]
    model.train()
    try:
        yield
    finally:
        with torch.no_grad():
            for name, tensor in _tensors(model):
                tensor.copy_(before[name])
        for part, training in modes:
            part.training = training
        model.zero_grad(set_to_none=True)


def _tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    return chain(model.named_parameters(), model.named_buffers())
