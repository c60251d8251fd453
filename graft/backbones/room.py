"""Work in batches that shrink where memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from graft.progress import say

_ALLOCATOR = ("can't allocate memory", "defaultcpuallocator", "out of memory", "bad_alloc")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory does not suffice, on a GPU or in the machine."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _ALLOCATOR)


def parts(count: int, batch_size: int, work: Callable[[slice], None]) -> Iterator[int]:
    """Do the work on all images, part by part; yields how many images each part had.

    Where memory runs out, that part and those after it are halved, and a line says so once.

    Args:
        count: N images.
        batch_size: Of a part, at most.
        work: Called with one part after the other; what it does may be done again.

    Raises:
        RuntimeError: one image alone does not fit.
    """
    done, told = 0, False
    while done < count:
        part = slice(done, min(done + batch_size, count))
        size = part.stop - part.start
        if _fits(work, part):
            done = part.stop
            yield size
            continue
        batch_size = size // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if not told:
            say(f"memory does not suffice for {size} images at once; going on with {batch_size} or fewer")
            told = True


def _fits(work: Callable[[slice], None], part: slice) -> bool:
    """Whether there was memory; if not, what was held for it is free again on return."""
    try:
        work(part)
    except (RuntimeError, MemoryError) as error:
        if part.stop - part.start == 1 or not out_of_memory(error):
            raise
        return False
    return True
