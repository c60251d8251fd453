"""What graft tells people while it works."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
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
    terminal = sys.stderr.isatty()
    interval = 0.2 if terminal else 10.0
    start = last = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - last >= interval or (terminal and done == total):
            last = now
            end = "\r" if terminal and done < total else "\n"
            sys.stderr.write(f"{MARK}{what}: {progress_text(done, total, now - start, unit)}{end}")
            sys.stderr.flush()


def progress_text(done: int, total: int, seconds: float, unit: str) -> str:
    """As in "120/480 images, 60.0 images/s, 6 s left"."""
    rate = done / max(seconds, 1e-9)
    left = max(total - done, 0) / max(rate, 1e-9)
    return f"{done}/{total} {unit}, {rate:.1f} {unit}/s, {left:.0f} s left"
