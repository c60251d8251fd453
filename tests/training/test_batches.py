"""Batches are the same wherever their pixels lie."""

import gc
import time
import weakref
from typing import Any

import pytest
import torch

from graft.images.augmentation import policy
from graft.images.preprocessing import Preprocessing
from graft.images.table import ImageTable
from graft.params import Augmentation
from graft.training import batches
from graft.training.supervised import domain_batches, labelled_index

SIZES = Preprocessing(input_size=16, resize_size=18)


@pytest.mark.parametrize("augmentation", [{}, {"mixup": 0.4}])
def test_what_is_fetched_ahead_is_what_would_be_fetched(
    table: ImageTable, augmentation: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = policy(Augmentation(**augmentation), SIZES)
    steps = (0, 1, 2, 7, 3, 4)  # a resumed run begins anywhere

    def seen() -> list[tuple[torch.Tensor, torch.Tensor]]:
        (stream,) = domain_batches(
            table, labelled_index(table, "train", "source"), SIZES, drawn, batch_size=16, seed=3
        )
        return [stream(step) for step in steps]

    near = seen()
    monkeypatch.setattr(batches, "FAR", 0)
    for (inputs, targets), (same_inputs, same_targets) in zip(near, seen(), strict=True):
        assert torch.equal(inputs, same_inputs)
        assert torch.equal(targets, same_targets)


def test_pixels_are_freed_with_the_last_batch(table: ImageTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "FAR", 0)
    index = labelled_index(table, "train", "source")
    gc.disable()  # a cycle would keep them until a collector comes by, and they may be gigabytes
    try:
        (stream,) = domain_batches(table, index, SIZES, None, batch_size=16, seed=3)
        stream(0)
        pixels = weakref.ref(stream.images.pixels)
        del stream
        latest = time.monotonic() + 10  # the next batch was begun
        while pixels() is not None and time.monotonic() < latest:
            time.sleep(0.01)
        assert pixels() is None
    finally:
        gc.enable()
