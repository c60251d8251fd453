import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from graft.training.batches import batch_indices, step_seed
from graft.training.loop import Loss, Phase, _parameter_groups, fit

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


@pytest.mark.parametrize("stop_at", [0, 3, 5, 12, 19])
def test_killed_at_any_step_and_resumed_gives_the_same_weights(tmp_path: Path, stop_at: int) -> None:
    whole = network()
    history = fit(whole, regression(whole), PHASE, work=tmp_path / "whole")
    torch.manual_seed(99)  # the process that resumes has its own random state

    killed = network()
    with pytest.raises(KeyboardInterrupt):
        fit(killed, regression(killed, stop_at), PHASE, work=tmp_path / "killed")
    resumed = network()
    rest = fit(resumed, regression(resumed), PHASE, work=tmp_path / "killed")

    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    assert [row["loss"] for row in rest] == [row["loss"] for row in history]


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


def test_each_trainable_parameter_is_optimised_once_by_identity() -> None:
    model = network()
    model[4].weight = nn.Parameter(model[4].weight.detach().clone())
    shared = nn.ModuleList([model, model[0]])
    model[1].weight.requires_grad_(False)
    chosen = [p for group in _parameter_groups(shared, 0.1) for p in group["params"]]
    assert sorted(map(id, chosen)) == sorted({id(p) for p in model.parameters() if p.requires_grad})
    decayed = [
        p for group in _parameter_groups(shared, 0.1) if group["weight_decay"] for p in group["params"]
    ]
    assert all(p.ndim > 1 for p in decayed)


@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 5))
def test_batches_show_every_image_equally_often(count: int, batch_size: int, seed: int) -> None:
    """Over `count` batches every image occurs exactly `batch_size` times."""
    steps = [batch_indices(count, batch_size, step, seed) for step in range(count)]
    assert all(len(batch) == batch_size for batch in steps)
    assert np.bincount(np.concatenate(steps), minlength=count).tolist() == [batch_size] * count
