"""Torch's operators on one core, for work that is shared out in larger pieces."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from threadpoolctl import ThreadpoolController


@contextmanager
def one_core() -> Iterator[None]:
    """Keep torch's operators to the thread that calls them; other threads are left as they are.

    Where the work is a hundred small operators, each of them shared out to all cores waits for the
    slowest core: on a busy machine ten times as long as the work itself.
    """
    torch.get_num_threads()  # torch sets a new thread's number once, and must have done so before
    with _pools().limit(limits=1, user_api="openmp"):
        yield


@cache
def _pools() -> ThreadpoolController:
    return ThreadpoolController()
