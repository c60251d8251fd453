"""Pixels that are fetched while those before them are worked on: from the disk, and on their way to a GPU."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import torch
from torch import Tensor

from graft.images.threads import one_core

K = TypeVar("K", bound=Hashable)


class Ahead(Generic[K]):
    """Fetches what is asked for, and in a thread what will be asked for next.

    Args:
        fetch: What belongs to a key.
    """

    def __init__(self, fetch: Callable[[K], Tensor]) -> None:
        self._fetch = fetch
        self._thread = ThreadPoolExecutor(1)
        self._expected: tuple[K, Future[Tensor]] | None = None

    def __call__(self, key: K, following: K | None) -> Tensor:
        """What belongs to `key`; `following` is begun as it is returned, and None is nothing.

        Raises:
            Exception: what `fetch` raised, once its key is asked for.
        """
        expected, self._expected = self._expected, None
        waits = expected is not None and expected[0] == key
        found = expected[1].result() if expected and waits else self._fetch(key)
        if following is not None:
            self._expected = following, self._thread.submit(self._on_one_core, following)
        return found

    def _on_one_core(self, key: K) -> Tensor:
        with one_core():  # the others are at work on what came before
            return self._fetch(key)


def gathered(pixels: Tensor, places: Tensor, device: torch.device) -> Tensor:
    """Images (B, 3, R, R) out of many, in memory that a GPU can copy from by itself where there is one.

    Args:
        pixels: uint8 (N, 3, R, R), in memory or mapped from a file.
        places: int64 (B,).
        device: Where they are to go.
    """
    shape = (len(places), *pixels.shape[1:])
    found = torch.empty(shape, dtype=pixels.dtype, pin_memory=device.type == "cuda")
    return torch.index_select(pixels, 0, places, out=found)


def on_their_way(pixels: Tensor, batch_size: int, device: torch.device) -> Iterator[Tensor]:
    """Batches of images on a device; the next one is fetched and sent while one is worked on.

    Args:
        pixels: uint8 (N, 3, R, R).
        batch_size: B, of all batches but the last.
        device: Where they go; those that are there already are not copied.

    Yields:
        uint8 (B, 3, R, R).
    """
    if device.type != "cuda" or pixels.is_cuda:
        for batch in pixels.split(batch_size):
            yield batch.to(device)
        return
    starts = range(0, len(pixels), batch_size)

    def fetch(start: int) -> Tensor:
        return gathered(pixels, torch.arange(start, min(start + batch_size, len(pixels))), device)

    ahead = Ahead(fetch)
    for start, following in zip(starts, [*starts[1:], None], strict=True):
        yield ahead(start, following).to(device, non_blocking=True)
