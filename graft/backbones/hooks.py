"""Hooks that do not outlive what they are for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

from torch.utils.hooks import RemovableHandle


@contextmanager
def hooked(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Take each hook away when the block ends, however it ends.

    Args:
        handles: What `register_forward_hook` and its like give; one after the other, so that a generator
            whose second registration fails leaves no first one behind.
    """
    with ExitStack() as stack:
        for handle in handles:
            stack.enter_context(handle)
        yield
