"""What graft tells people while it works."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TypeVar

T = TypeVar("T")

# Marks graft's own lines, so that a driver can tell them from what libraries print.
MARK = "▸ "


def say(text: str) -> None:
    """Write one line for the user to stderr."""
    print(f"{MARK}{text}", file=sys.stderr, flush=True)


def track(items: Iterable[T], what: str, *, total: int, unit: str) -> Iterator[T]:
    """Yield the items while a line on stderr says how many are done, the rate and the time left.

    On a terminal the line redraws itself; in a log there is one line every ten seconds.

    Args:
        items: What to pass through.
        what: The work, such as "decoding".
        total: Number of items expected.
        unit: What is counted, such as "images".
    """
    show = _redrawn(what)
    for done, item in enumerate(items, 1):
        yield item
        show(partial(progress_text, done, total, unit=unit), done == total)


def transfer(what: str, *, files: int, size: int | None) -> Callable[[int, int], None]:
    """A function to tell of (files, bytes) that arrived, from any thread; a line shows them as in `track`.

    Args:
        what: The work, such as "fetching s3://bucket/prefix".
        files: Number expected.
        size: Bytes expected; None where nobody knows, and the time left is then told by the files.
    """
    show, lock = _redrawn(what), threading.Lock()
    done, arrived = 0, 0

    def tell(more_files: int, more_bytes: int) -> None:
        nonlocal done, arrived
        with lock:
            done, arrived = done + more_files, arrived + more_bytes
            show(partial(transfer_text, done, files, arrived, size), done == files)

    return tell


def _redrawn(what: str) -> Callable[[Callable[[float], str], bool], None]:
    """A function that writes the line when it is time; it gets the text by seconds, and if all is done."""
    terminal = sys.stderr.isatty()
    interval = 0.2 if terminal else 10.0
    start = last = time.monotonic()

    def show(text: Callable[[float], str], finished: bool) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= interval or (terminal and finished):
            last = now
            end = "\r" if terminal and not finished else "\n"
            sys.stderr.write(f"{MARK}{what}: {text(now - start)}{end}")
            sys.stderr.flush()

    return show


def progress_text(done: int, total: int, seconds: float, unit: str) -> str:
    """As in "120/480 images, 60.0 images/s, 6 s left"."""
    rate = done / max(seconds, 1e-9)
    left = max(total - done, 0) / max(rate, 1e-9)
    return f"{done}/{total} {unit}, {rate:.1f} {unit}/s, {left:.0f} s left"


def transfer_text(done: int, files: int, arrived: int, size: int | None, seconds: float) -> str:
    """As in "120/480 files, 3.4/13.6 MB, 1.7 MB/s, 6 s left"."""
    rate = arrived / max(seconds, 1e-9)
    share = arrived / max(size, 1) if size is not None else done / max(files, 1)
    left = seconds * max(1 - share, 0) / max(share, 1e-9)
    of = "" if size is None else f"/{size / 1e6:.1f}"
    soon = f", {left:.0f} s left" if share else ""
    return f"{done}/{files} files, {arrived / 1e6:.1f}{of} MB, {rate / 1e6:.1f} MB/s{soon}"
