"""Files that are either whole or absent, and digests of files and folders.

Everything graft writes goes to a temporary name beside its destination and is renamed when it is
complete, so that a full disk, a kill or Ctrl-C never leaves a half-written artifact behind.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from graft.errors import GraftError


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path that becomes `path` if the body succeeds, and vanishes if it does not.

    Raises:
        GraftError: the disk is full.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with _full_disk_named(path):
            yield temporary
            _flush(temporary)
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `path`, replacing what was there, if the body succeeds.

    Raises:
        GraftError: the disk is full.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    try:
        with _full_disk_named(path):
            yield temporary
            temporary.chmod(0o755)  # mkdtemp makes it private; artifacts are read by other users
            remove(path)
            os.replace(temporary, path)
    finally:
        remove(temporary)


def remove(path: Path) -> None:
    """Delete a file, a link or a folder; nothing happens where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """Read one JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    return _digest_file(Path(path), "sha256")


def folder_md5(folder: str | Path) -> str:
    """DVC's md5 of a folder: of the JSON list of its files' md5 and relative path, sorted by path.

    The same number stands in a .dvc file as `<md5>.dir`, so a model can be traced to a data version.
    """
    folder = Path(folder)
    files = (file for file in folder.rglob("*") if file.is_file())
    return listing_md5({file.relative_to(folder).as_posix(): _digest_file(file, "md5") for file in files})


def listing_md5(files: Mapping[str, str]) -> str:
    """`folder_md5` of a folder that holds these files: each one's md5 by its path, with "/"."""
    entries = [{"md5": md5, "relpath": path} for path, md5 in sorted(files.items())]
    return hashlib.md5(json.dumps(entries).encode(), usedforsecurity=False).hexdigest()


def link_file(source: str | Path, destination: str | Path) -> None:
    """A copy that shares the bytes where the file system can; neither may then be written in place."""
    try:
        os.link(source, destination)
    except OSError:
        shutil.copy2(source, destination)


def _digest_file(path: Path, algorithm: str) -> str:
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _flush(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


@contextmanager
def _full_disk_named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        free = shutil.disk_usage(path.parent).free
        raise GraftError(
            f"the disk is full while writing {path} ({free / 2**20:.0f} MiB free); nothing was kept",
            "free some space, or move the run folder to a larger disk, and run again",
        ) from error
