import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graft.backbones.classifier import Classifier
from graft.backbones.heads import NeighboursHead
from graft.errors import GraftError
from graft.images.augmentation import policy
from graft.images.table import ImageTable
from graft.methods import train
from graft.methods.stage_decisions import (
    arrange,
    everywhere,
    last_stages,
    listed,
    reinitialise,
    stage_rates,
)
from graft.params import Augmentation, FineTuning
from graft.training.loop import History

Learner = Callable[..., Classifier]

BASE = {"head_epochs": 1, "epochs": 2, "batch_size": 24, "learning_rate": 0.003, "seed": 5}
STAGES = ["block1.0", "block2.0", "block3.0", "dense.0"]
AFFINE = [f"trunk.network.{stage}.1.{kind}" for stage in ("block1", "block2", "block3", "dense")
          for kind in ("weight", "bias")]  # fmt: skip

# A preset with its settings, the beginnings of the names that may change, and the phases of its history.
PRESETS: dict[str, tuple[dict[str, Any], tuple[str, ...], list[str]]] = {
    "head_only": ({"method": "head_only"}, ("head.",), ["head"] * 2),
    "last_k": ({"method": "last_k"}, ("head.", "trunk.network.dense"), ["last"] * 2),
    "last_2": (
        {"method": "last_k", "last": 2},
        ("head.", "trunk.network.dense", "trunk.network.block3"),
        ["last"] * 2,
    ),
    "all": ({"method": "all"}, ("head.", "trunk."), ["all"] * 2),
    "head_then_all": ({"method": "head_then_all"}, ("head.", "trunk."), ["head", "all", "all"]),
    "staged": (
        {"method": "staged", "stages": {"block1.0": "freeze", "-3": "freeze", "-1": "reinitialise"}},
        ("head.", "trunk.network.dense", "trunk.network.block3"),
        ["staged"] * 2,
    ),
    "normalisation": ({"method": "normalisation"}, ("head.", *AFFINE), ["normalisation"] * 2),
}
ALL = {**{name: settings for name, (settings, _, _) in PRESETS.items()}, "gradual": {"method": "gradual"}}


def taught(table: ImageTable, model: Classifier, work: Path, **settings: Any) -> tuple[Classifier, History]:
    params = FineTuning(**{**BASE, **settings})
    return train(table, model, policy(Augmentation(), model.config.preprocessing), params, work=work)


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def without_validation(table: ImageTable) -> ImageTable:
    return dataclasses.replace(table, rows=table.rows[table.rows["split"] != "val"])


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_trains_what_it_says_and_nothing_else(
    preset: str, table: ImageTable, learner: Learner, tmp_path: Path
) -> None:
    """Without validation the last epoch is kept, so what learns has surely changed."""
    settings, learning, phases = PRESETS[preset]
    before = state(learner())
    model, history = taught(without_validation(table), learner(), tmp_path, **settings)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(before[name], tensor)}
    assert changed == {name for name in before if name.startswith(learning)}
    assert [row["phase"] for row in history] == phases
    assert all(parameter.requires_grad for parameter in model.parameters())


class Killed(Exception):
    pass


def killing(model: Classifier, passes: int) -> Classifier:
    """The process ends in the given forward pass."""
    count = 0

    def count_down(*_: object) -> None:
        nonlocal count
        count += 1
        if count > passes:
            raise Killed

    model.trunk.register_forward_pre_hook(count_down)
    return model


def learning_by_pass(model: Classifier) -> list[int]:
    """Fills up with the number of trainable parameters in each training pass."""
    counts: list[int] = []

    def note(*_: object) -> None:
        if torch.is_grad_enabled():
            counts.append(sum(parameter.requires_grad for parameter in model.parameters()))

    model.head.register_forward_pre_hook(note)
    return counts


@pytest.mark.parametrize(
    ("preset", "share"),
    [
        ("head_only", 0.6),
        ("last_k", 0.3),
        ("all", 0.7),
        ("head_then_all", 0.2),
        ("head_then_all", 0.8),
        ("staged", 0.5),
        ("normalisation", 0.9),
        ("gradual", 0.5),
    ],
)
def test_a_killed_run_goes_on_and_ends_with_the_same_bits(
    preset: str, share: float, table: ImageTable, learner: Learner, tmp_path: Path
) -> None:
    """Killed in any pass, be it of training or of validation; all options that hold state are on."""
    settings = {**ALL[preset], "ema": 0.5, "l2_sp": 0.01, "layer_decay": 0.8, "schedule": "one_cycle"}
    if preset != "staged":
        settings["interpolation"] = 0.7
    passes = 0

    def count(*_: object) -> None:
        nonlocal passes
        passes += 1

    whole = learner()
    counts = learning_by_pass(whole)
    whole.trunk.register_forward_pre_hook(count)
    _, history = taught(table, whole, tmp_path / "whole", **settings)
    with pytest.raises(Killed):
        taught(table, killing(learner(), int(passes * share)), tmp_path / "killed", **settings)
    resumed = learner()
    counts_after = learning_by_pass(resumed)
    _, rest = taught(table, resumed, tmp_path / "killed", **settings)
    assert same(state(whole), state(resumed))
    assert [row["loss"] for row in rest] == [row["loss"] for row in history]
    # What the resumed run trains is the tail of the whole run: nothing is frozen again.
    assert 0 < len(counts_after) <= len(counts)
    assert counts_after == counts[-len(counts_after) :]


def test_gradual_unfreezes_one_stage_more_each_phase(
    table: ImageTable, learner: Learner, tmp_path: Path
) -> None:
    model = learner()
    counts = learning_by_pass(model)
    _, history = taught(without_validation(table), model, tmp_path, method="gradual", epochs=4)
    assert [row["phase"] for row in history] == ["head", "stage-1", "stage-2", "stage-3", "stage-4"]
    assert sorted(set(counts)) == [2, 5, 8, 11, 14]
    assert counts == sorted(counts)


def test_gradual_stops_at_the_first_stage_that_does_not_help(
    table: ImageTable, learner: Learner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And takes that stage's changes back."""
    accuracies = iter([0.1, 0.5, 0.7, 0.6, 0.65, 0.6])  # the probe; the head; stage 1 twice; stage 2 twice
    seen: list[dict[str, Tensor]] = []
    model = learner()

    def validate() -> dict[str, float]:
        seen.append(state(model))
        return {"val_accuracy": next(accuracies), "val_loss": 1.0}

    monkeypatch.setattr("graft.training.supervised.validator", lambda *_: validate)
    _, history = taught(table, model, tmp_path, method="gradual", epochs=2, patience=1, head_epochs=1)
    assert [row["phase"] for row in history] == ["head", *["stage-1"] * 2, *["stage-2"] * 2]
    assert same(state(model), seen[2])


def test_without_head_epochs_there_is_no_head_phase(
    table: ImageTable, learner: Learner, tmp_path: Path
) -> None:
    _, history = taught(table, learner(), tmp_path, method="head_then_all", head_epochs=0)
    assert {row["phase"] for row in history} == {"all"}


def test_stages_are_found_by_name_and_from_the_end(learner: Learner) -> None:
    model = learner()
    decisions = listed(model, {"-1": "reinitialise", "block2.0": "freeze", "-4": "freeze"})
    assert list(decisions) == STAGES
    assert list(decisions.values()) == ["freeze", "freeze", "tune", "reinitialise"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"stages": {"blok3.0": "freeze"}}, r"no stage 'blok3.0'\n  fix: did you mean block3.0\? .*dense.0"),
        ({"stages": {"-5": "freeze"}}, r"no stage '-5'\n"),
        ({"stages": {"0": "freeze"}}, r"no stage '0'\n"),
        (
            {"stages": {"-1": "freeze", "dense.0": "tune"}},
            "to freeze and to tune\n  fix: list each stage once",
        ),
        ({"stages": {"-1": "reinitialise"}, "interpolation": 0.5}, "interpolation = 0.5"),
        ({"method": "last_k", "last": 5}, r"last = 5.*\n  fix: give a number from 1 to 4"),
    ],
)
def test_what_cannot_be_is_refused_with_its_fix(
    settings: dict[str, Any], words: str, table: ImageTable, learner: Learner, tmp_path: Path
) -> None:
    with pytest.raises(GraftError, match=words):
        taught(table, learner(), tmp_path, **{"method": "staged", **settings})


def test_a_network_without_normalisation_is_refused(learner: Learner) -> None:
    model = learner("squeezenet1_1")
    with pytest.raises(GraftError, match="squeezenet1_1 has no normalisation layer"):
        arrange(model, everywhere(model, "normalisation"))


def test_a_head_without_weights_is_refused(table: ImageTable, learner: Learner, tmp_path: Path) -> None:
    linear = learner()
    head = NeighboursHead(linear.head.in_features, 3, bank=4, neighbours=2)
    model = Classifier(linear.trunk, head, config=linear.config, classes=linear.classes)
    with pytest.raises(
        GraftError, match=r"NeighboursHead has no weights\n  fix: set feature_extraction.head"
    ):
        taught(table, model, tmp_path, method="all")


def test_a_reinitialised_stage_is_that_of_a_fresh_network(learner: Learner) -> None:
    """Reproducible, with fresh statistics, and different from before; other stages stay."""
    models = [learner(), learner()]
    decisions = listed(models[0], {"-1": "reinitialise"})
    before = state(models[0])
    models[1].trunk.network.dense[1].running_mean += 1
    for number, model in enumerate(models):
        torch.manual_seed(number)
        reinitialise(model, decisions, seed=3)
    assert same(state(models[0]), state(models[1]))
    changed = {name for name in before if not torch.equal(before[name], models[0].state_dict()[name])}
    assert changed == {"trunk.network.dense.0.weight"}


@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_rates_fall_towards_the_stem(decay: float, learner: Learner) -> None:
    model = learner()
    decisions = listed(model, {"block3.0": "reinitialise"})
    rate = stage_rates(model, decisions, head=3.0, layer_decay=decay)
    weights = [f"trunk.network.{name}.weight" for name in ("dense.0", "dense.1", "block3.1", "block2.0")]
    assert [rate(name) for name in weights] == [1.0, 1.0, 10.0, decay**2]
    assert rate("trunk.network.block1.1.bias") == decay**3
    assert rate("head.bias") == 3.0


def test_freezing_is_of_the_phase_not_for_ever(learner: Learner) -> None:
    model = learner()
    for decisions in (everywhere(model, "freeze"), everywhere(model, "normalisation"), last_stages(model, 4)):
        arrange(model, decisions)
    model.train()
    model(torch.randn(4, 3, 32, 32))
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(part.training for part in model.modules())


@pytest.mark.parametrize("method", ["all", "head_then_all", "gradual", "multi_task", "semi_supervised"])
def test_stored_statistics_stay_in_what_is_tuned(
    method: str, table: ImageTable, learner: Learner, tmp_path: Path
) -> None:
    before = state(learner())
    model, _ = taught(table, learner(), tmp_path, method=method, statistics="stored")
    after = state(model)
    assert all(torch.equal(before[name], after[name]) for name in before if "running_" in name)
    assert not torch.equal(before["trunk.network.dense.0.weight"], after["trunk.network.dense.0.weight"])
    assert all(p.requires_grad for p in model.parameters())


def test_what_starts_anew_finds_statistics_of_its_own(
    table: ImageTable, learner: Learner, tmp_path: Path
) -> None:
    """A few batches must do: in evaluation the stage normalises as it did in training."""
    settings = {"method": "staged", "statistics": "stored", "stages": {"-1": "reinitialise"}}
    model, history = taught(table, learner(), tmp_path, **settings, epochs=3, precision="float32")
    stored = model.trunk.network.get_buffer("dense.1.running_var")
    assert not torch.allclose(stored, torch.ones_like(stored), atol=0.05)
    assert max(row["val_accuracy"] for row in history) > 0.5
