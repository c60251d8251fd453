"""A data folder from an address: what it holds, and the folder itself."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from graft.errors import GraftError
from graft.files import link_file, listing_md5, remove
from graft.progress import say
from graft.storage.addresses import Place, parse
from graft.storage.client import connect
from graft.storage.dvc_version import version_objects
from graft.storage.kept import fetch_all, md5_of
from graft.storage.objects import Object, listing


def store_of(work: Path) -> Path:
    """Where fetched objects are kept: below GRAFT_HOME, for every step and run; else with the step's work."""
    home = os.environ.get("GRAFT_HOME")
    return (Path(home).absolute() if home else work) / "objects"


def address_digest(address: str) -> str:
    """What stands for the content of an address, without fetching it.

    The md5 of a DVC version; else a SHA-256 over the listing (paths, sizes and ETags).

    Raises:
        GraftError: it is no address, or what it names cannot be listed.
    """
    place = parse(address)
    if place.md5:
        return f"{place.md5}.dir"
    found = _plain_objects(connect(), place)
    facts = sorted((path, each.size, each.etag) for path, each in found.items())
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def fetch_folder(address: str, folder: Path, store: Path) -> str:
    """Lay out what an address names as a folder of read-only files.

    What is in the store is not fetched again, so that a second start goes on where the first stopped.

    Args:
        address: s3://bucket/prefix or dvc+s3://bucket/prefix?md5=....dir.
        folder: What is there is replaced.
        store: See `kept`; best on the same disk.

    Returns:
        The folder's md5, the same that `dvc add` gives it. It is verified: a version's by the md5 of its
        list and of each file, a plain folder's is made of those of the bytes that arrived.

    Raises:
        GraftError: the address is none; bucket, version or objects are missing or may not be read; bytes
            are wrong; a name cannot be that of a file.
    """
    place, s3 = parse(address), connect()
    objects = version_objects(s3, place, store) if place.md5 else _plain_objects(s3, place)
    _refuse_names(objects, address)
    files = fetch_all(s3, list(objects.values()), store, address)
    remove(folder)
    folder.mkdir(parents=True)
    for path, each in objects.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        link_file(files[each], folder / path)
    md5 = place.md5 or listing_md5({path: md5_of(files[each]) for path, each in objects.items()})
    say(f"{place}: {len(objects)} files, md5 {md5}")
    return md5


def _plain_objects(s3: Any, place: Place) -> Mapping[str, Object]:
    objects: dict[str, Object] = {}
    for path, each in listing(s3, place):
        if path.startswith("files/md5/"):
            raise GraftError(
                f"{place} is a DVC remote, not a data folder",
                f"name the version, with the md5 in data.dvc: dvc+{place}?md5=...",
            )
        objects[path] = each
    if not objects:
        raise GraftError(
            f"there is no object below {place}/",
            f"correct the prefix, or send the data folder there: aws s3 sync data {place}",
        )
    return objects


def _refuse_names(paths: Iterable[str], address: str) -> None:
    names = set(paths)
    for name in sorted(names):
        parts = name.split("/")
        folders = {str(parent) for parent in PurePosixPath(name).parents}
        if not {"", ".", ".."}.isdisjoint(parts) or "\0" in name:
            raise GraftError(f"{address} holds {name!r}, which cannot be a file's path", "rename the object")
        if clash := names & folders:
            raise GraftError(f"{address} holds {name!r} and the file {clash.pop()!r}", "rename one of them")
