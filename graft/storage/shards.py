"""Where shards of rows lie: a folder on disk or a prefix on S3. Each is whole or absent, with a time of use.

    <store>/<group>/<name>.parquet     a shard
    <store>/<group>/<name>.used        on S3 only: an empty object, as young as the shard's last use

On disk the time of use is the file's mtime, in nanoseconds. S3 tells whole seconds and lets nobody set
them, so a shard that is read gets a marker beside it, and the younger of the two times counts.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import pyarrow as pa

from graft.storage.addresses import PLAIN, Place, is_address, split
from graft.storage.client import code_of, connect, faults, persistently, refusal

SHARD, _USED, _PART = ".parquet", ".used", ".part"
_OLD = 24 * 3600  # seconds, after which an unfinished file belongs to a process that was killed


@dataclass(frozen=True)
class Shard:
    """One shard: its name below the store, its bytes, and when it was last used (seconds since 1970)."""

    name: str
    size: int
    used: float


class Shards(Protocol):
    """What a folder and a prefix have in common.

    Raises:
        FileNotFoundError: `open`, and reading what it gave: the shard is gone.
        GraftError: the store cannot be reached or used.
    """

    def listed(self, group: str = "") -> list[Shard]:
        """The shards of a group, or all."""

    def open(self, shard: Shard) -> Any:
        """A file to read from, to be closed."""

    def put(self, group: str, content: pa.Buffer) -> None:
        """Keep a shard under a new name."""

    def touch(self, shard: Shard) -> None:
        """Say that it was used now."""

    def remove(self, shard: Shard) -> None:
        """Delete it; another process may have done so."""


def shards_at(store: str) -> Shards:
    """The shards below a folder or s3://bucket/prefix.

    Raises:
        GraftError: it is another kind of address.
    """
    if not is_address(store):
        return OnDisk(Path(store))
    bucket, prefix = split(store)
    return OnS3(Place(bucket, prefix.strip("/")))


def new_name(group: str) -> str:
    """A name that no other shard has."""
    return f"{group}/{uuid4().hex}{SHARD}"


@dataclass(frozen=True)
class OnDisk:
    """Shards as files below `root`."""

    root: Path

    def listed(self, group: str = "") -> list[Shard]:
        found = []
        for file in self.root.glob(f"{group or '*'}/*{SHARD}"):
            with suppress(FileNotFoundError):
                facts = file.stat()
                found.append(
                    Shard(file.relative_to(self.root).as_posix(), facts.st_size, facts.st_mtime_ns / 1e9)
                )
        return found

    def open(self, shard: Shard) -> Any:
        return pa.OSFile(str(self.root / shard.name))

    def put(self, group: str, content: pa.Buffer) -> None:
        path = self.root / new_name(group)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}{_PART}")
        try:  # without waiting for the disk: what a power cut spoils is found out by its checksums
            temporary.write_bytes(memoryview(content))
            self._touch(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        self._clear()

    def touch(self, shard: Shard) -> None:
        with suppress(OSError):  # gone, or another user's
            self._touch(self.root / shard.name)

    def remove(self, shard: Shard) -> None:
        with suppress(OSError):
            (self.root / shard.name).unlink()

    def _touch(self, path: Path) -> None:
        now = time.time_ns()  # the kernel's own time of a write is some milliseconds coarse
        os.utime(path, ns=(now, now))

    def _clear(self) -> None:
        for left in self.root.glob(f"*/.*{_PART}"):
            with suppress(OSError):
                if time.time() - left.stat().st_mtime > _OLD:
                    left.unlink()


@dataclass(frozen=True)
class OnS3:
    """Shards as objects below `place`."""

    place: Place

    @cached_property
    def _s3(self) -> Any:
        return connect()

    def listed(self, group: str = "") -> list[Shard]:
        shards: dict[str, Shard] = {}
        used: dict[str, float] = {}
        for name, size, when in self._objects(f"{group}/" if group else ""):
            stem, end = os.path.splitext(name)
            if end == SHARD:
                shards[stem] = Shard(name, size, when)
            elif end == _USED:
                used[stem] = when
        return [replace(each, used=max(each.used, used.get(stem, 0))) for stem, each in shards.items()]

    def open(self, shard: Shard) -> Any:
        return pa.PythonFile(_Ranges(self._s3, self.place, shard), mode="r")

    def put(self, group: str, content: pa.Buffer) -> None:
        key = self.place.key(new_name(group))
        self._call("put_object", key, Body=content.to_pybytes())

    def touch(self, shard: Shard) -> None:
        with suppress(*faults()):  # who may read need not be allowed to write
            key = self.place.key(_marker(shard))
            persistently(partial(self._s3.put_object, Bucket=self.place.bucket, Key=key, Body=b""))

    def remove(self, shard: Shard) -> None:
        for name in (shard.name, _marker(shard)):
            with suppress(*faults()):
                key = self.place.key(name)
                persistently(partial(self._s3.delete_object, Bucket=self.place.bucket, Key=key))

    def _objects(self, below: str) -> Iterator[tuple[str, int, float]]:
        start = self.place.key("")
        more: dict[str, str] = {}
        while True:
            page = self._call("list_objects_v2", None, Prefix=start + below, **more)
            for each in page.get("Contents", ()):
                yield each["Key"].removeprefix(start), each["Size"], each["LastModified"].timestamp()
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def _call(self, what: str, key: str | None, **given: Any) -> Any:
        named = {} if key is None else {"Key": key}
        try:
            return persistently(partial(getattr(self._s3, what), Bucket=self.place.bucket, **named, **given))
        except faults() as error:
            raise refusal(error, f"{PLAIN}{self.place.bucket}/{key or self.place.prefix}") from error


def _marker(shard: Shard) -> str:
    return shard.name.removesuffix(SHARD) + _USED


class _Ranges(io.RawIOBase):
    """An object as a file: each read is a request for a range."""

    def __init__(self, s3: Any, place: Place, shard: Shard) -> None:
        self._get = partial(s3.get_object, Bucket=place.bucket, Key=place.key(shard.name))
        self._called = f"{PLAIN}{place.bucket}/{place.key(shard.name)}"
        self._size, self._at = shard.size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        from botocore.exceptions import FlexibleChecksumError

        stop = self._size if size is None or size < 0 else min(self._at + size, self._size)
        if stop <= self._at:
            return b""
        asked = f"bytes={self._at}-{stop - 1}"
        try:
            content: bytes = persistently(lambda: self._get(Range=asked)["Body"].read())
        except FlexibleChecksumError as error:
            raise OSError(f"{self._called}: {error}") from error
        except faults() as error:
            if code_of(error) in ("NoSuchKey", "404"):
                raise FileNotFoundError(self._called) from error
            raise refusal(error, self._called) from error
        if len(content) != stop - self._at:
            raise OSError(f"{self._called}: {len(content)} bytes came instead of {stop - self._at}")
        self._at = stop
        return content
