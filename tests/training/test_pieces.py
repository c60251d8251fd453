"""Batches in pieces where memory runs out: the same is learned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from graft.errors import GraftError
from graft.images.augmentation import policy
from graft.images.preprocessing import Preprocessing
from graft.images.table import ImageTable
from graft.params import Augmentation
from graft.training.loop import History, Loss, Phase, fit
from graft.training.pieces import MOST, Piece, now
from graft.training.schedules import one_cycle
from graft.training.supervised import cross_entropy, domain_batches, labelled_index

SIZES = Preprocessing(input_size=16, resize_size=18)
PHASE = Phase(name="p", epochs=3, steps_per_epoch=4, learning_rate=0.01, schedule=one_cycle, ema=0.9)


@given(st.integers(0, 50), st.integers(1, 64), st.integers(1, 64))
def test_the_pieces_are_the_whole_batch_in_order(start: int, images: int, count: int) -> None:
    share = slice(start, start + images)
    if count > images:
        with pytest.raises(GraftError, match="one image at a time"):
            Piece(0, count).of(share)
        return
    cut = [Piece(number, count).of(share) for number in range(count)]
    assert [at for piece in cut for at in range(piece.start, piece.stop)] == list(
        range(start, start + images)
    )
    sizes = {piece.stop - piece.start for piece in cut}
    assert max(sizes) - min(sizes) <= 1


def network(dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(0)
    stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.GroupNorm(2, 8), nn.ReLU(), nn.Dropout(dropout))
    return nn.Sequential(stem, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))


def lesson(table: ImageTable, model: nn.Module, **augmentation: Any) -> Loss:
    drawn = policy(Augmentation(**augmentation), SIZES)
    index = labelled_index(table, "train")
    streams = domain_batches(table, index, SIZES, drawn, batch_size=16, seed=3)
    return cross_entropy(model, streams, 0.1)  # type: ignore[arg-type]


def with_room_for(most: int, model: nn.Module, after: int = 0) -> Callable[[], None]:
    """From the pass of that number on, memory does not suffice for larger batches of the model."""
    passes = 0

    def check(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal passes
        passes += 1
        if passes > after and len(inputs[0]) > most:
            torch.empty(2**50, dtype=torch.uint8)

    return model.register_forward_pre_hook(check).remove


def trained(model: nn.Module, loss: Loss, work: Path, phase: Phase = PHASE) -> History:
    return fit(model, loss, phase, work=work)


@pytest.mark.usefixtures("float32")
@pytest.mark.parametrize("augmentation", [{}, {"mixup": 0.4}])
def test_what_is_learned_in_pieces_is_what_the_whole_batch_teaches(
    table: ImageTable, tmp_path: Path, augmentation: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    whole, cut = network(), network()
    wanted = trained(whole, lesson(table, whole, **augmentation), tmp_path / "whole")
    with_room_for(4, cut)
    found = trained(cut, lesson(table, cut, **augmentation), tmp_path / "cut")
    for name, tensor in whole.state_dict().items():
        assert torch.allclose(cut.state_dict()[name], tensor, atol=2e-4), name
    for one, two in zip(wanted, found, strict=True):
        assert one["loss"] == pytest.approx(two["loss"], abs=1e-4)
        assert one["train_accuracy"] == pytest.approx(two["train_accuracy"], abs=0.05)
    told = capsys.readouterr().err
    assert told.count("memory does not suffice for a whole batch") == 2
    assert "going on in 4 pieces" in told
    assert now.get() == Piece()


def test_a_killed_run_goes_on_in_as_many_pieces(table: ImageTable, tmp_path: Path) -> None:
    def stopped(loss: Loss, at: int) -> Loss:
        def broken(step: int) -> tuple[Tensor, dict[str, float]]:
            if step == at:
                raise KeyboardInterrupt
            return loss(step)

        return broken

    model = network(dropout=0.3)
    with_room_for(8, model, after=2)  # in the third step
    trained(model, lesson(table, model), tmp_path / "through")
    killed = network(dropout=0.3)
    with_room_for(8, killed, after=2)
    with pytest.raises(KeyboardInterrupt):
        trained(killed, stopped(lesson(table, killed), 6), tmp_path / "killed")
    resumed = network(dropout=0.3)  # would have room for the whole batch
    trained(resumed, lesson(table, resumed), tmp_path / "killed")
    for name, tensor in model.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name


def test_pieces_draw_their_own_dropout(table: ImageTable, tmp_path: Path) -> None:
    model = network(dropout=0.5)
    seen: list[Tensor] = []
    model[0].register_forward_hook(lambda _module, _inputs, output: seen.append(output[0] == 0))
    with_room_for(8, model)
    trained(model, lesson(table, model), tmp_path, replace(PHASE, epochs=1, steps_per_epoch=1))
    assert len(seen) == 2
    assert not torch.equal(*seen)


def test_what_does_not_fit_image_by_image_is_an_error_with_a_fix(table: ImageTable, tmp_path: Path) -> None:
    model = network()
    with_room_for(0, model)
    with pytest.raises(GraftError, match=r"one image at a time.*\n.*input_size"):
        trained(model, lesson(table, model), tmp_path)


def test_a_loss_that_is_not_cut_ends(tmp_path: Path) -> None:
    model, tried = nn.Linear(2, 1), []

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        tried.append(step)
        raise MemoryError

    with pytest.raises(MemoryError):
        trained(model, loss, tmp_path)
    assert len(tried) <= MOST.bit_length() + 1
    with pytest.raises(RuntimeError, match="shape"):
        fit(model, lambda step: (model(torch.zeros(1, 3)).sum(), {}), PHASE, work=tmp_path)
