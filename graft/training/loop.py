"""The one training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graft.backbones.precision import autocast, lay_out
from graft.progress import say
from graft.training import distributed
from graft.training.allocation import memory_kept
from graft.training.averaging import WeightAverage
from graft.training.batches import step_seed
from graft.training.checkpoints import load_checkpoint, save_checkpoint, weights_of
from graft.training.groups import adamw, same_rate, set_rate
from graft.training.pieces import Pieces, now
from graft.training.schedules import cosine

Loss = Callable[[int], tuple[Tensor, dict[str, float]]]
Validate = Callable[[], dict[str, float]]
History = list[dict[str, Any]]
Inspect = Callable[[dict[str, Any]], str | None]

# Called with each epoch's row once its checkpoint is saved. It may raise, as a tuner does that gives up.
on_epoch: ContextVar[Callable[[dict[str, Any]], None] | None] = ContextVar("on_epoch", default=None)


@dataclass(frozen=True)
class Phase:
    """One stretch of training with one optimiser.

    Attributes:
        name: In the history and in the checkpoint's file name.
        epochs, steps_per_epoch: Their product is the number of optimiser steps.
        learning_rate: The peak; `schedule` scales it by progress in [0, 1].
        patience: Stop after so many epochs without a better validation score; None never stops early.
        keep: "best" ends with the weights of the best validation score, "last" with the last.
        rates: Factor on the learning rate of the parameter that `named_parameters` calls so; not zero.
        ema: Decay of an average of the weights, which is then what is validated and kept; 0 is off.
    """

    name: str
    epochs: int
    steps_per_epoch: int
    learning_rate: float
    weight_decay: float = 0.0
    schedule: Callable[[float], float] = cosine
    patience: int | None = None
    keep: str = "best"
    seed: int = 0
    rates: Callable[[str], float] = same_rate
    ema: float = 0.0


@dataclass(frozen=True)
class _Run:
    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: WeightAverage
    pieces: Pieces


@dataclass
class _Progress:
    epoch: int = 0
    best: tuple[float, float] = (-math.inf, -math.inf)
    stale: int = 0
    finished: bool = False
    history: History = field(default_factory=list)


def fit(
    model: nn.Module,
    loss: Loss,
    phase: Phase,
    *,
    work: Path,
    validate: Validate | None = None,
    inspect: Inspect | None = None,
) -> History:
    """Minimise `loss` over the trainable parameters of `model`, in place.

    After every epoch the model is validated and the phase's whole state is written to
    `work/<phase>.pt`. Called again after a kill, it goes on from there and ends with the same weights:
    nothing random outlives a step, because each step seeds its own draws. Under torchrun the processes
    average their gradients, and the first alone writes. Where memory runs out in one process alone,
    batches go on in `Pieces`.

    Args:
        model: Holds everything `loss` trains.
        loss: Of the step number; gives a scalar and numbers to log, none of them named `loss`.
        phase: How long, how fast.
        work: Folder for checkpoints.
        validate: Gives numbers for the history; `val_accuracy`, then low `val_loss`, chooses the best.
            Without it the last weights are kept and nothing stops early.
        inspect: Called with each epoch's row, while the model has the weights that were validated; it
            may add numbers to the row. A reason that it returns ends the phase like a loss that is not
            finite does.

    Returns:
        One row an epoch: phase, epoch, seconds, learning_rate (before `rates`), the mean of each logged
        number, and what `validate` gave. A loss that is not finite ends the phase at the last good
        state and leaves a row with `diverged`, the reason.

    Raises:
        ValueError: `phase.rates` gives a factor that is not positive, or `phase.ema` is not in [0, 1).
    """
    path = work / f"{phase.name}.pt"
    distributed.share_state(model)
    lay_out(model)
    optimizer = adamw(model, phase.learning_rate, phase.weight_decay, phase.rates)
    run = _Run(model, optimizer, WeightAverage(model, phase.ema), Pieces())
    progress, kept = _resume(path, run)
    with memory_kept(), distributed.common_statistics(model):
        while not progress.finished and progress.epoch < phase.epochs:
            row, kept = _one_epoch(run, loss, phase, progress, kept, validate, inspect)
            if distributed.rank() == 0:
                _save(path, run, progress, kept)
                _report(phase, row)
            distributed.wait()
            if callback := on_epoch.get():
                callback(row)
    model.load_state_dict(kept)
    return progress.history


def _one_epoch(
    run: _Run,
    loss: Loss,
    phase: Phase,
    progress: _Progress,
    kept: dict[str, Tensor],
    validate: Validate | None,
    inspect: Inspect | None,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Train, validate, and enter both in `progress`; gives the row and the weights to keep."""
    start = time.monotonic()
    row = _train(run, loss, phase, progress.epoch)
    if "diverged" not in row:
        distributed.average_buffers(run.model)
        with run.average.applied():
            row |= distributed.average(validate()) if validate else {}
            if reason := inspect(row) if inspect else None:
                row["diverged"] = reason
            else:
                better = _better(row, progress) if validate else True
                if better or phase.keep == "last":
                    kept = weights_of(run.model)
    if "diverged" in row:
        run.model.load_state_dict(kept)
        progress.finished = True
    row["seconds"] = round(time.monotonic() - start, 3)
    progress.history.append(row)
    progress.epoch += 1
    progress.finished |= (
        phase.patience is not None and validate is not None and progress.stale >= phase.patience
    )
    progress.finished |= progress.epoch >= phase.epochs
    return row, kept


def _train(run: _Run, loss: Loss, phase: Phase, epoch: int) -> dict[str, Any]:
    run.model.train()
    total = phase.epochs * phase.steps_per_epoch
    sums: dict[str, float] = {}
    for step in range(epoch * phase.steps_per_epoch, (epoch + 1) * phase.steps_per_epoch):
        rate = phase.learning_rate * phase.schedule((step + 1) / (total + 1))
        set_rate(run.optimizer, rate)
        numbers = take_step(run.model, run.optimizer, loss, step, seed=phase.seed, pieces=run.pieces)
        if not math.isfinite(numbers["loss"]):
            diverged = f"loss {numbers['loss']} at step {step}"
            return {"phase": phase.name, "epoch": epoch + 1, "diverged": diverged}
        run.average.update()
        for name, number in numbers.items():
            sums[name] = sums.get(name, 0.0) + number
    means = {name: number / phase.steps_per_epoch for name, number in sums.items()}
    return {"phase": phase.name, "epoch": epoch + 1, "learning_rate": rate, **means}


def take_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    step: int,
    *,
    seed: int,
    pieces: Pieces | None = None,
) -> dict[str, float]:
    """One step of the optimiser, unless the loss is not finite; gives the numbers of `measure`.

    Where memory runs out, the step is done again in more `pieces`, and those after it are, too.
    """

    def learn() -> dict[str, float]:
        value, numbers = measure(model, loss, step, seed=seed)
        if math.isfinite(numbers["loss"]):
            (value / now.get().total).backward()
        return numbers

    numbers = (pieces or Pieces()).learn(learn, optimizer.zero_grad)
    if math.isfinite(numbers["loss"]):
        distributed.average_gradients(model.parameters())
        optimizer.step()
    return numbers


def measure(model: nn.Module, loss: Loss, step: int, *, seed: int) -> tuple[Tensor, dict[str, float]]:
    """The loss of one step; with it as `loss`, what else was logged: means over all processes."""
    # Processes and pieces see different images and so draw different dropout.
    stream = distributed.rank() + distributed.world() * now.get().number
    torch.manual_seed(step_seed(seed, step, stream=2 * stream))
    with autocast(next(model.parameters()).device):
        value, logs = loss(step)
    return value, distributed.average({"loss": value.item(), **logs})


def _better(row: dict[str, Any], progress: _Progress) -> bool:
    score = (row.get("val_accuracy", -math.inf), -row.get("val_loss", math.inf))
    if score > progress.best:
        progress.best, progress.stale = score, 0
        return True
    progress.stale += 1
    return False


def _resume(path: Path, run: _Run) -> tuple[_Progress, dict[str, Tensor]]:
    state = load_checkpoint(path)
    if state is None:
        return _Progress(), weights_of(run.model)
    run.model.load_state_dict(state["model"])
    run.optimizer.load_state_dict(state["optimizer"])
    run.average.load_state_dict(state["average"])
    run.pieces.count = state["pieces"]
    progress = _Progress(**{**state["progress"], "best": tuple(state["progress"]["best"])})
    return progress, state["kept"]


def _save(path: Path, run: _Run, progress: _Progress, kept: dict[str, Tensor]) -> None:
    state = {
        "model": weights_of(run.model),
        "optimizer": run.optimizer.state_dict(),
        "average": run.average.state_dict(),
        "pieces": run.pieces.count,
        "kept": kept,
        "progress": {**vars(progress), "best": list(progress.best)},
    }
    save_checkpoint(path, state)


def _report(phase: Phase, row: dict[str, Any]) -> None:
    """About ten lines a phase; the history has them all."""
    if row["epoch"] % math.ceil(phase.epochs / 12) and row["epoch"] != phase.epochs:
        return
    numbers = ", ".join(
        f"{name} {row[name]:.3f}" for name in ("loss", "train_accuracy", "val_accuracy") if name in row
    )
    state = row.get("diverged", numbers)
    left = (phase.epochs - row["epoch"]) * row["seconds"]
    say(f"{phase.name}: epoch {row['epoch']}/{phase.epochs}: {state} ({left:.0f} s left at most)")
