"""Where memory runs out, batches shrink and nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from graft.backbones.classifier import Classifier
from graft.backbones.features import extract
from graft.backbones.room import out_of_memory, parts
from graft.backbones.trunk import Trunk, build

HUGE = 2**50  # bytes that no allocator gives


def of_the_allocator() -> None:
    torch.empty(HUGE, dtype=torch.uint8)


def of_numpy() -> None:
    np.zeros(HUGE, np.uint8)


def of_a_gpu() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


class Hungry(nn.Module):
    """Needs more memory than there is for more than `most` images."""

    def __init__(self, network: nn.Module, most: int) -> None:
        super().__init__()
        self.network, self.most = network, most
        self.sizes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        if len(x) > self.most:
            of_the_allocator()
        y: Tensor = self.network(x)
        return y


@pytest.mark.parametrize("fault", [of_the_allocator, of_numpy, of_a_gpu])
def test_each_way_of_running_out_is_known(fault: object) -> None:
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        fault()  # type: ignore[operator]
    assert out_of_memory(caught.value)
    assert not out_of_memory(RuntimeError("shapes cannot be multiplied"))


@given(st.integers(0, 60), st.integers(1, 40), st.integers(1, 40))
def test_every_image_is_done_once_and_in_order(count: int, batch_size: int, most: int) -> None:
    done: list[int] = []

    def work(part: slice) -> None:
        if part.stop - part.start > most:
            raise MemoryError
        done.extend(range(count)[part])

    assert sum(parts(count, batch_size, work)) == count
    assert done == list(range(count))


def test_features_and_predictions_are_the_same_with_less_memory(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    trunk, config = build("digits_cnn")
    pixels = torch.randint(0, 256, (21, 3, 32, 32), dtype=torch.uint8)
    head = nn.Linear(128, 3)
    hungry = Trunk(Hungry(trunk.network, 3), num_features=128)
    found = extract(hungry, config, pixels, batch_size=16)
    assert hungry.network.sizes == [16, 8, 4, 2] + [2] * 9 + [1]  # type: ignore[union-attr]
    assert torch.allclose(found, extract(trunk, config, pixels, batch_size=16), atol=1e-5)
    told = capsys.readouterr().err
    assert told.count("memory does not suffice for 16 images at once") == told.count("does not suffice") == 1

    given = [Classifier(each, head, config=config, classes=["a", "b", "c"]) for each in (trunk, hungry)]
    whole, small = (each.predict_pixels(pixels, batch_size=8) for each in given)
    assert np.allclose(whole, small, atol=1e-6)


def test_one_image_that_does_not_fit_and_other_faults_are_raised() -> None:
    trunk, config = build("digits_cnn")
    pixels = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="allocate memory"):
        extract(Trunk(Hungry(trunk.network, 0), num_features=128), config, pixels, batch_size=4)
    with pytest.raises(RuntimeError, match=r"shape|Expected size"):
        extract(Trunk(nn.Linear(3, 4), num_features=4), config, pixels, batch_size=4)
