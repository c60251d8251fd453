"""Fetched objects kept by content, so that what arrived once is not fetched again.

    md5/ab/cdef...         the bytes whose md5 is abcdef..., read-only
    versions/<sha256>      a link to them, for an object whose ETag is not the md5 of its bytes
    arriving/              what is on its way

An object enters when it is whole and verified. Folders are laid out as hard links, so that neither may be
written in place. The whole may be deleted whenever no step is running.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from graft.files import whole_file
from graft.progress import say, transfer
from graft.storage.client import WORKERS
from graft.storage.objects import Object, Told, download

_OLD = 24 * 3600  # seconds, after which what is still arriving belongs to a process that was killed


def fetch_all(s3: Any, wanted: Sequence[Object], store: Path, what: str) -> Mapping[Object, Path]:
    """The objects' files in the store; those that are missing are fetched, several at once.

    Args:
        s3: The client.
        wanted: The objects; one may be named twice.
        store: The folder that keeps them.
        what: The address of the whole, for progress.

    Raises:
        GraftError: one cannot be fetched or is not what it should be; the others that arrived are kept.
    """
    _clear(store)
    found = {each: file for each in wanted if (file := find(store, each))}
    missing = list({_name(each): each for each in wanted if each not in found}.values())
    if not missing:
        return found
    if found:
        say(f"{what}: {len(found)} of {len(found) + len(missing)} files are here already")
    sizes = [each.size for each in missing if each.size is not None]
    tell = transfer(
        f"fetching {what}", files=len(missing), size=sum(sizes) if len(sizes) == len(missing) else None
    )
    pool = ThreadPoolExecutor(WORKERS)
    try:
        for done in as_completed([pool.submit(_enter, s3, each, store, tell) for each in missing]):
            done.result()
    finally:
        pool.shutdown(cancel_futures=True)
    return {each: found.get(each) or _required(store, each) for each in wanted}


def find(store: Path, wanted: Object) -> Path | None:
    """An object's file, if it is kept."""
    places = [store / "versions" / _name(wanted)]
    if wanted.stated_md5:
        places.append(_place(store, wanted.stated_md5))
    for place in places:
        with suppress(FileNotFoundError):
            if wanted.size in (None, place.stat().st_size):
                return place.resolve()
    return None


def md5_of(file: Path) -> str:
    """The md5 of a kept file, which its name tells."""
    return file.parent.name + file.name


def _enter(s3: Any, wanted: Object, store: Path, tell: Told) -> None:
    staged = store / "arriving" / uuid4().hex  # others may fetch the same into the same store
    with whole_file(staged) as temporary:
        md5 = download(s3, wanted, temporary, tell)
        temporary.chmod(0o444)
    place = _place(store, md5)
    place.parent.mkdir(parents=True, exist_ok=True)
    os.replace(staged, place)
    if md5 != wanted.stated_md5:
        link = store / "versions" / _name(wanted)
        link.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            link.symlink_to(os.path.relpath(place, link.parent))
    tell(1, 0)


def _required(store: Path, wanted: Object) -> Path:
    file = find(store, wanted)
    if file is None:
        raise FileNotFoundError(f"{wanted.called} vanished from {store}; something else deletes there")
    return file


def _place(store: Path, md5: str) -> Path:
    return store / "md5" / md5[:2] / md5[2:]


def _name(wanted: Object) -> str:
    """One name for one version of an object, or for all objects with the same md5."""
    parts = [wanted.md5] if wanted.md5 else [wanted.bucket, wanted.key, wanted.etag, wanted.size]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _clear(store: Path) -> None:
    for left in (store / "arriving").glob("*"):
        with suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > _OLD:
                left.unlink()
