"""Room for pixels: in memory, or in a file that the system pages in and out where memory would not do."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from graft.errors import GraftError
from graft.progress import say

SHARE = 0.5  # of the available memory that one array of pixels may take
# Of control groups, version 2 and 1: where they are, the limit, the use, and what of that can be dropped.
_GROUPS = (
    ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def room_for(shape: tuple[int, ...], what: str) -> np.ndarray:
    """An array to be filled: in memory, or mapped from a file without a name where it would take too much.

    The file lies in GRAFT_HOME, else where temporary files do; its blocks are reserved at once, and it is
    gone when the array is.

    Args:
        shape: Of the array.
        what: What it is for, as people are told.

    Returns:
        uint8, with any content.

    Raises:
        GraftError: neither memory nor the disk has room.
    """
    size, available = math.prod(shape), available_memory()
    if size <= SHARE * available:
        return np.empty(shape, np.uint8)
    folder = Path(os.environ.get("GRAFT_HOME") or tempfile.gettempdir())
    folder.mkdir(parents=True, exist_ok=True)
    sizes = f"{what} take {size / 2**30:.1f} GiB, and {available / 2**30:.1f} GiB of memory are free"
    say(f"{sizes}: they are kept in a file in {folder} while they are needed")
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            _reserve(file.fileno(), size)
            return np.memmap(file, np.uint8, "r+", shape=shape)
    except OSError as error:
        fix = "free some space, or set GRAFT_HOME (or TMPDIR) to a folder on a larger disk"
        raise GraftError(f"{sizes}, and {folder} has no room either ({error.strerror})", fix) from error


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that this process may still take without swapping: of the machine, and of its control groups."""
    return max(0, min([*_free_of_machine(root), *_free_of_groups(root)], default=2**31))


def _reserve(file: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)  # a hole that finds no room later would kill the process
    else:
        os.truncate(file, size)


def _free_of_machine(root: Path) -> Iterator[int]:
    with suppress(OSError):
        for line in (root / "proc/meminfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                yield int(value.split()[0]) * 1024
                return
    with suppress(ValueError, OSError, AttributeError):  # not Linux
        yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _free_of_groups(root: Path) -> Iterator[int]:
    """Of each control group that the process is in, from its own up to the outermost."""
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            number, controllers, path = line.split(":", 2)
            if number == "0" or "memory" in controllers.split(","):
                below, *names = _GROUPS[number != "0"]
                place = Path(path.lstrip("/"))
                for group in (place, *place.parents):  # a container sees its own group as the outermost
                    with suppress(OSError, ValueError):  # no such file; a limit of "max"
                        yield _free_of_group(root / below / group, *names)


def _free_of_group(group: Path, limit: str, use: str, droppable: str) -> int:
    facts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    return int((group / limit).read_text()) - int((group / use).read_text()) + int(facts.get(droppable, 0))
