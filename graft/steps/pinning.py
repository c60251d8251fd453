"""Names that can never mean something else: what a cache that compares names may trust."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from graft.storage.addresses import is_address, parse

WEIGHTS = ("weights", "teacher")  # keys that name weights
MADE_HERE = ("pretrain", "random", "fine_tuned", "probe")


def names_content(folder: str) -> bool:
    """Whether an address of data holds the md5 of what it names, so that it never names other data.

    Raises:
        GraftError: it begins like an address and is none.
    """
    return is_address(folder) and parse(folder).md5 is not None


def loose_names(settings: Any, keys: Sequence[str] = (*WEIGHTS, "init")) -> Iterator[str]:
    """The weights in a step's settings that may be others tomorrow: from elsewhere, and without sha256.

    A file, a bucket, an alias and a library's name are such; so are a teacher and a beginning that are not
    made here. A step settles which champion it begins at before its outputs are looked up, so for them
    `WEIGHTS` are the keys that matter.
    """
    if isinstance(settings, Mapping):
        for key in keys:
            name = settings.get(key)
            if isinstance(name, str) and name not in MADE_HERE and "sha256" not in settings:
                yield name
        settings = list(settings.values())
    if isinstance(settings, (list, tuple)):
        for value in settings:
            yield from loose_names(value, keys)
