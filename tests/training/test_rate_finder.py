import copy
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from graft.errors import GraftError
from graft.training.batches import step_seed
from graft.training.freezing import freeze
from graft.training.loop import Loss, Phase, fit
from graft.training.rate_finder import RateSearch, find_rate, picture, smooth


def network() -> nn.Sequential:
    torch.manual_seed(0)
    body = [nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2)]
    return nn.Sequential(*body, nn.Linear(32, 4), nn.BatchNorm1d(4, affine=False))


def classify(model: nn.Module, batch: int = 16) -> Loss:
    """Four noisy classes, so that batches differ by more than a good model still learns."""
    rule = torch.randn(8, 4, generator=torch.Generator().manual_seed(7))

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        generator = torch.Generator().manual_seed(step_seed(1, step))
        inputs = torch.randn(batch, 8, generator=generator)
        noise = 1.5 * torch.randn(batch, 4, generator=generator)
        return functional.cross_entropy(model(inputs), (inputs @ rule + noise).argmax(1)), {}

    return loss


def test_the_model_is_bit_for_bit_what_it_was() -> None:
    model = network()
    freeze(model[1])
    model[4].eval()
    model.register_buffer("hidden", torch.ones(2), persistent=False)
    before, modes = copy.deepcopy(model), [part.training for part in model.modules()]
    find_rate(model, classify(model))
    assert [part.training for part in model.modules()] == modes
    for old, new in (
        (before.named_parameters, model.named_parameters),
        (before.named_buffers, model.named_buffers),
    ):
        for (name, was), (_, now) in zip(old(), new(), strict=True):
            assert torch.equal(was, now), name
            assert was.requires_grad == now.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_model_comes_back_when_the_search_is_broken_off() -> None:
    model = network()
    before, loss = copy.deepcopy(model.state_dict()), classify(model)

    def broken(step: int) -> tuple[Tensor, dict[str, float]]:
        if step == 40 and torch.is_grad_enabled():
            raise KeyboardInterrupt
        return loss(step)

    with pytest.raises(KeyboardInterrupt):
        find_rate(model, broken)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_the_same_seed_gives_the_same_search() -> None:
    first, second = (find_rate(model, classify(model)) for model in (network(), network()))
    assert first.suggestion == second.suggestion
    assert np.array_equal(first.losses, second.losses)


def test_the_suggestion_teaches_faster_than_rates_far_from_it(tmp_path: Path) -> None:
    search = find_rate(model := network(), classify(model))
    assert search.rates[0] < search.suggestion < search.rates[search.smoothed.argmin()] <= 1.0

    def final(rate: float) -> float:
        model = network()
        phase = Phase("p", epochs=1, steps_per_epoch=60, learning_rate=rate)
        fit(model, classify(model), phase, work=tmp_path / str(rate))
        with torch.no_grad():
            return classify(model.eval(), 2000)(999)[0].item()

    reached = final(search.suggestion)
    assert reached < final(search.suggestion / 300)
    assert reached < final(search.suggestion * 300)


def test_a_model_that_is_good_already_gets_a_rate_and_not_the_noise_of_batches(tmp_path: Path) -> None:
    """Read off the raw losses, the suggestions of different batches lie decades apart."""
    model = network()
    fit(model, classify(model), Phase("p", 1, 200, learning_rate=0.01), work=tmp_path)

    def shifted(offset: int) -> Loss:
        loss = classify(model)
        return lambda step: loss(step + offset)

    found = [find_rate(model, shifted(1000 * (i + 1))).suggestion for i in range(5)]
    assert max(found) / min(found) < 30
    assert min(found) > 1e-5


@pytest.mark.parametrize("explode", [lambda v: v * 1e6, lambda v: v * float("inf")])
def test_the_search_ends_where_the_loss_explodes(explode: Callable[[Tensor], Tensor]) -> None:
    model = network()
    loss = classify(model)

    def exploding(step: int) -> tuple[Tensor, dict[str, float]]:
        value, logs = loss(step)
        return (explode(value) if step >= 50 and torch.is_grad_enabled() else value), logs

    search = find_rate(model, exploding)
    assert len(search.rates) == len(search.losses) == len(search.smoothed) <= 51
    assert search.suggestion < search.rates[-1]


def test_a_loss_that_never_falls_is_named() -> None:
    model = nn.Linear(2, 1)

    def rising(step: int) -> tuple[Tensor, dict[str, float]]:
        return 0 * model.weight.sum() + 1 + step, {}

    with pytest.raises(GraftError, match="the loss never fell while the learning rate grew to"):
        find_rate(model, rising)
    with pytest.raises(GraftError, match="not finite before the first step"):
        find_rate(model, lambda step: (rising(step)[0] * float("nan"), {}))


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=30), st.floats(-10, 10))
def test_smoothing_keeps_level_and_range(values: list[float], level: float) -> None:
    smoothed = smooth(np.array(values))
    assert smoothed.shape == (len(values),)
    assert min(values) - 1e-9 <= smoothed.min() <= smoothed.max() <= max(values) + 1e-9
    assert smooth(np.full(len(values), level)) == pytest.approx(level)


def test_the_picture_is_an_svg_that_names_the_rate(tmp_path: Path) -> None:
    rates = np.geomspace(1e-5, 1e-1, 20)
    losses = 2 - np.exp(-((np.log10(rates) + 2) ** 2))
    path = picture(RateSearch(rates, losses, losses, 3e-3), tmp_path / "search.svg")
    assert ElementTree.parse(path).getroot().tag.endswith("svg")
    assert "steepest at 3.0e-03" in path.read_text(encoding="utf-8")
