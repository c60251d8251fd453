import copy
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from graft.training.batches import batch_indices, step_seed
from graft.training.freezing import freeze, unfreeze
from graft.training.loop import History, Loss, Phase, fit, on_epoch
from graft.training.schedules import constant, one_cycle

PHASE = Phase(name="p", epochs=4, steps_per_epoch=5, learning_rate=0.01, weight_decay=0.1)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))


def regression(model: nn.Module, stop_at: int | None = None) -> Loss:
    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        if step == stop_at:
            raise KeyboardInterrupt
        inputs = torch.randn(12, 6, generator=torch.Generator().manual_seed(step_seed(1, step)))
        value = (model(inputs) - inputs[:, :3]).square().mean()
        return value, {"square": value.item()}

    return loss


def slow_start(name: str) -> float:
    return 0.2 if name.startswith("0.") else 1.0


PHASES = {
    "plain": PHASE,
    "one cycle, average and rates": replace(PHASE, schedule=one_cycle, ema=0.95, rates=slow_start),
    "constant and average": replace(PHASE, schedule=constant, ema=0.5, epochs=3),
}


def prepared(frozen: bool) -> nn.Sequential:
    model = network()
    if frozen:
        freeze(model[:2])
    return model


def scores(model: nn.Module) -> dict[str, float]:
    """A score that depends on the weights it is given, as validation does."""
    return {"val_accuracy": 0.5, "val_loss": next(model.parameters()).abs().sum().item()}


def trained(model: nn.Sequential, phase: Phase, work: Path, stop_at: int | None = None) -> History:
    return fit(model, regression(model, stop_at), phase, work=work, validate=lambda: scores(model[4]))


@cache
def uninterrupted(name: str, frozen: bool) -> tuple[dict[str, Tensor], History]:
    with tempfile.TemporaryDirectory() as work:
        model = prepared(frozen)
        history = trained(model, PHASES[name], Path(work))
        return model.state_dict(), history


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(sorted(PHASES)), st.booleans(), st.lists(st.integers(0, 14), min_size=1, max_size=3))
def test_killed_at_any_steps_and_resumed_gives_the_same_weights(
    name: str, frozen: bool, kills: list[int]
) -> None:
    weights, history = uninterrupted(name, frozen)
    with tempfile.TemporaryDirectory() as work:
        for kill in sorted(kills):
            torch.manual_seed(kill)  # each process has its own random state
            with pytest.raises(KeyboardInterrupt):
                trained(prepared(frozen), PHASES[name], Path(work), stop_at=kill)
        resumed = prepared(frozen)
        rest = trained(resumed, PHASES[name], Path(work))
    for key, tensor in weights.items():
        assert torch.equal(tensor, resumed.state_dict()[key]), key
    columns = ("loss", "square", "learning_rate", "val_loss")
    assert [[row[c] for c in columns] for row in rest] == [[row[c] for c in columns] for row in history]


@pytest.mark.parametrize("kill", [6, 13])
def test_resuming_neither_moves_what_is_frozen_nor_freezes_what_is_not(tmp_path: Path, kill: int) -> None:
    """Head first, then everything, killed in either phase: each part is as the phase asks."""
    first, second = replace(PHASE, name="head", epochs=2), replace(PHASE, name="all", epochs=2)

    def chain(stop_at: int | None) -> tuple[nn.Sequential, dict[str, Tensor]]:
        model = prepared(frozen=True)
        fit(model, regression(model, stop_at), first, work=tmp_path)
        after_head = copy.deepcopy(model.state_dict())
        unfreeze(model)
        fit(model, regression(model, None if stop_at is None else stop_at - 10), second, work=tmp_path)
        return model, after_head

    with pytest.raises(KeyboardInterrupt):
        chain(kill)
    model, after_head = chain(None)
    start = network().state_dict()
    body = [name for name in start if name[0] in "01"]
    assert all(torch.equal(start[name], after_head[name]) for name in body)
    assert all(not torch.equal(after_head[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_average_is_what_is_validated_and_kept(tmp_path: Path) -> None:
    model, seen, raw = network(), [], []

    def validate() -> dict[str, float]:
        seen.append(copy.deepcopy(model.state_dict()))
        return {"val_accuracy": [0.1, 0.9, 0.2][len(seen) - 1], "val_loss": 1.0}

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        raw.append(copy.deepcopy(model.state_dict()))
        return regression(model)(step)

    fit(model, loss, replace(PHASE, epochs=3, ema=0.9), work=tmp_path, validate=validate)
    plain = network()
    fit(plain, regression(plain), replace(PHASE, epochs=3), work=tmp_path / "plain")
    assert all(torch.equal(seen[1][name], tensor) for name, tensor in model.state_dict().items())
    assert not torch.equal(seen[0]["0.weight"], raw[5]["0.weight"])  # training goes on with the raw ones
    assert torch.equal(seen[0]["1.running_mean"], raw[5]["1.running_mean"])  # statistics are the raw model's
    end = plain.state_dict()
    assert torch.equal(end["1.running_mean"], seen[2]["1.running_mean"])  # which learned as without average


def test_without_validation_nothing_stops_early_and_the_last_weights_stay(tmp_path: Path) -> None:
    model, plain = network(), network()
    history = fit(model, regression(model), replace(PHASE, patience=1), work=tmp_path / "patient")
    fit(plain, regression(plain), replace(PHASE, keep="last"), work=tmp_path / "plain")
    assert len(history) == PHASE.epochs
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))


def test_an_observer_sees_each_epoch_once_saved_and_may_end_training(tmp_path: Path) -> None:
    model, rows = network(), []

    def observe(row: dict[str, object]) -> None:
        rows.append(row)
        if len(rows) == 2:
            raise StopAsyncIteration

    token = on_epoch.set(observe)
    try:
        with pytest.raises(StopAsyncIteration):
            fit(model, regression(model), PHASE, work=tmp_path)
        resumed = network()
        history = fit(resumed, regression(resumed, stop_at=9), PHASE, work=tmp_path)  # step 9 is done
    finally:
        on_epoch.reset(token)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert rows == history


def test_slower_layers_move_less_from_the_first_step_on(tmp_path: Path) -> None:
    """One step of AdamW moves each weight by the rate."""
    model, before = network(), network()
    phase = Phase("p", 1, 1, learning_rate=0.01, schedule=constant, rates=slow_start)
    fit(model, regression(model), phase, work=tmp_path)
    for name in ("0.weight", "4.weight"):
        moved = (model.get_parameter(name) - before.get_parameter(name)).abs().max().item()
        assert moved == pytest.approx(0.01 * slow_start(name), rel=1e-2), name


def test_a_finished_phase_is_not_trained_again(tmp_path: Path) -> None:
    model = network()
    fit(model, regression(model), PHASE, work=tmp_path)
    again = network()
    fit(again, regression(again, stop_at=0), PHASE, work=tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_the_best_epoch_is_kept_and_patience_ends_training(tmp_path: Path) -> None:
    model, seen = network(), []
    scores = iter([0.5, 0.9, 0.7, 0.6, 0.8])

    def validate() -> dict[str, float]:
        seen.append(copy.deepcopy(model.state_dict()))
        return {"val_accuracy": next(scores), "val_loss": 1.0}

    phase = Phase(name="p", epochs=5, steps_per_epoch=2, learning_rate=0.01, patience=2)
    history = fit(model, regression(model), phase, work=tmp_path, validate=validate)
    assert [row["val_accuracy"] for row in history] == [0.5, 0.9, 0.7, 0.6]
    assert all(torch.equal(seen[1][name], tensor) for name, tensor in model.state_dict().items())


def test_equal_accuracy_is_decided_by_the_lower_loss(tmp_path: Path) -> None:
    model, losses, seen = network(), iter([1.0, 0.5, 0.7]), []

    def validate() -> dict[str, float]:
        seen.append(copy.deepcopy(model.state_dict()))
        return {"val_accuracy": 0.5, "val_loss": next(losses)}

    phase = Phase(name="p", epochs=3, steps_per_epoch=2, learning_rate=0.01)
    fit(model, regression(model), phase, work=tmp_path, validate=validate)
    assert all(torch.equal(seen[1][name], tensor) for name, tensor in model.state_dict().items())


def test_a_loss_that_is_not_finite_ends_at_the_last_good_state(tmp_path: Path) -> None:
    model = network()

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        value, logs = regression(model)(step)
        return (value * float("nan") if step == 7 else value), logs

    history = fit(model, loss, PHASE, work=tmp_path)
    assert len(history) == 2
    assert history[-1]["diverged"] == "loss nan at step 7"
    assert all(torch.isfinite(p).all() for p in model.parameters())


@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 5))
def test_batches_show_every_image_equally_often(count: int, batch_size: int, seed: int) -> None:
    """Over `count` batches every image occurs exactly `batch_size` times."""
    steps = [batch_indices(count, batch_size, step, seed) for step in range(count)]
    assert all(len(batch) == batch_size for batch in steps)
    assert np.bincount(np.concatenate(steps), minlength=count).tolist() == [batch_size] * count
