"""The one training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graft.progress import say
from graft.training.batches import step_seed
from graft.training.checkpoints import load_checkpoint, save_checkpoint, weights_of
from graft.training.device import autocast
from graft.training.schedules import cosine

Loss = Callable[[int], tuple[Tensor, dict[str, float]]]
Validate = Callable[[], dict[str, float]]
History = list[dict[str, Any]]


@dataclass(frozen=True)
class Phase:
    """One stretch of training with one optimiser.

    Attributes:
        name: In the history and in the checkpoint's file name.
        epochs, steps_per_epoch: Their product is the number of optimiser steps.
        learning_rate: The peak; `schedule` scales it by progress in [0, 1].
        patience: Stop after so many epochs without a better validation score; None never stops early.
        keep: "best" ends with the weights of the best validation score, "last" with the last.
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


@dataclass
class _Progress:
    epoch: int = 0
    best: tuple[float, float] = (-math.inf, -math.inf)
    stale: int = 0
    finished: bool = False
    history: History = field(default_factory=list)


def fit(
    model: nn.Module, loss: Loss, phase: Phase, *, work: Path, validate: Validate | None = None
) -> History:
    """Minimise `loss` over the trainable parameters of `model`, in place.

    After every epoch the model is validated and the phase's whole state is written to
    `work/<phase>.pt`. Called again after a kill, it goes on from there and ends with the same weights:
    nothing random outlives a step, because each step seeds its own draws.

    Args:
        model: Holds everything `loss` trains.
        loss: Of the step number; gives a scalar and numbers to log.
        phase: How long, how fast.
        work: Folder for checkpoints.
        validate: Gives numbers for the history; `val_accuracy`, then low `val_loss`, chooses the best.

    Returns:
        One row an epoch: phase, epoch, seconds, learning_rate, the mean of each logged number, and
        what `validate` gave. A loss that is not finite ends the phase at the last good state and
        leaves a row with `diverged`.
    """
    path = work / f"{phase.name}.pt"
    optimizer = torch.optim.AdamW(_parameter_groups(model, phase.weight_decay), lr=phase.learning_rate)
    progress, kept = _resume(path, model, optimizer)
    while not progress.finished and progress.epoch < phase.epochs:
        start = time.monotonic()
        row = _one_epoch(model, loss, phase, optimizer, progress.epoch)
        if row.get("diverged"):
            model.load_state_dict(kept)
            progress.finished = True
        else:
            row |= validate() if validate else {}
            if _better(row, progress) or phase.keep == "last" or validate is None:
                kept = weights_of(model)
        row["seconds"] = round(time.monotonic() - start, 3)
        progress.history.append(row)
        progress.epoch += 1
        progress.finished |= phase.patience is not None and progress.stale >= phase.patience
        progress.finished |= progress.epoch >= phase.epochs
        _save(path, model, optimizer, progress, kept)
        _report(phase, row)
    model.load_state_dict(kept)
    return progress.history


def _one_epoch(
    model: nn.Module, loss: Loss, phase: Phase, optimizer: torch.optim.Optimizer, epoch: int
) -> dict[str, Any]:
    model.train()
    device = next(model.parameters()).device
    total = phase.epochs * phase.steps_per_epoch
    sums: dict[str, float] = {}
    for step in range(epoch * phase.steps_per_epoch, (epoch + 1) * phase.steps_per_epoch):
        rate = phase.learning_rate * phase.schedule((step + 1) / (total + 1))
        for group in optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed(step_seed(phase.seed, step))
        with autocast(device):
            value, logs = loss(step)
        if not torch.isfinite(value):
            return {
                "phase": phase.name,
                "epoch": epoch + 1,
                "diverged": f"loss {value.item()} at step {step}",
            }
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
        for name, number in {"loss": value.item(), **logs}.items():
            sums[name] = sums.get(name, 0.0) + number
    means = {name: number / phase.steps_per_epoch for name, number in sums.items()}
    return {"phase": phase.name, "epoch": epoch + 1, "learning_rate": rate, **means}


def _parameter_groups(model: nn.Module, weight_decay: float) -> Sequence[dict[str, Any]]:
    """Decay weights, but neither biases nor the scales of normalisation layers (He et al. 2019)."""
    unique = {id(p): p for p in model.parameters() if p.requires_grad}.values()
    groups = [
        {"params": [p for p in unique if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in unique if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _better(row: dict[str, Any], progress: _Progress) -> bool:
    score = (row.get("val_accuracy", -math.inf), -row.get("val_loss", math.inf))
    if score > progress.best:
        progress.best, progress.stale = score, 0
        return True
    progress.stale += 1
    return False


def _resume(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[_Progress, dict[str, Tensor]]:
    state = load_checkpoint(path)
    if state is None:
        return _Progress(), weights_of(model)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    progress = _Progress(**{**state["progress"], "best": tuple(state["progress"]["best"])})
    return progress, state["kept"]


def _save(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: _Progress,
    kept: dict[str, Tensor],
) -> None:
    state = {"model": weights_of(model), "optimizer": optimizer.state_dict(), "kept": kept}
    save_checkpoint(path, {**state, "progress": {**vars(progress), "best": list(progress.best)}})


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
