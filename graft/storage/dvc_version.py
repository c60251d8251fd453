"""A version of a data folder in a DVC remote, as DVC 3 lays it out.

files/md5/ab/cdef....dir is a JSON list of {"md5", "relpath"}, sorted by path, and its own md5 is the
version's; each file is files/md5/ab/cdef... . So the md5 verifies every name and every byte.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graft.errors import GraftError
from graft.storage.addresses import Place
from graft.storage.kept import fetch_all
from graft.storage.objects import Object

_OBJECTS = "files/md5"


def version_objects(s3: Any, version: Place, store: Path) -> Mapping[str, Object]:
    """The objects of a version, by the path of the file they become.

    Raises:
        GraftError: the remote does not hold the version, or what it holds under its md5 is no list of files.
    """
    assert version.md5 is not None
    wanted = Object(
        version.bucket,
        version.key(_key(version.md5) + ".dir"),
        f"the version {version}",
        version.md5,
        absent="run `dvc push` where the data was added, or correct the md5 (it stands in data.dvc) or the "
        "remote; data pushed by DVC 2 needs `dvc cache migrate` and `dvc push` first",
    )
    content = fetch_all(s3, [wanted], store, f"the list of {version}")[wanted].read_bytes()
    return {path: _object(version, path, md5) for path, md5 in _entries(content, version)}


def _object(version: Place, path: str, md5: str) -> Object:
    absent = "the push of this version was not completed: run `dvc push` where the data was added"
    key = version.key(_key(md5))
    return Object(
        version.bucket, key, f"{path} of {version} (s3://{version.bucket}/{key})", md5, absent=absent
    )


def _key(md5: str) -> str:
    return f"{_OBJECTS}/{md5[:2]}/{md5[2:]}"


def _entries(content: bytes, version: Place) -> list[tuple[str, str]]:
    try:
        entries = [(each["relpath"], each["md5"]) for each in json.loads(content)]
        if all(isinstance(path, str) and re.fullmatch(r"[0-9a-f]{32}", md5) for path, md5 in entries):
            return entries
    except (ValueError, TypeError, KeyError):
        pass
    raise GraftError(
        f"what {version} names is not DVC's list of a folder's files", "take the md5 that stands in data.dvc"
    )
