"""zip and tar archives. Every member is judged before the first byte is written.

Nothing here calls an archive library's extract: members are read, and written where the layout puts
them, so that no name, link or device of an archive can reach outside the destination.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from graft.errors import GraftError
from graft.images.importing.layout import Incoming, arrange, left_out

_DAMAGE = (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)
_OPENERS: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}
_MAGIC = (b"PK\x03\x04", b"PK\x05\x06", *_OPENERS)  # also tells an archive whose end is cut off


@dataclass(frozen=True)
class Limits:
    """What an archive of images stays below; more is taken for a decompression bomb.

    Attributes:
        files: Members.
        file_size: Bytes of one member; no image that graft accepts is larger.
        size: Bytes of all members together.
        ratio: Unpacked over packed size, judged from `ratio_from` unpacked bytes on.
    """

    files: int = 1_500_000
    file_size: int = 2**30
    size: int = 200 * 2**30
    ratio: float = 100.0
    ratio_from: int = 256 * 2**20


@dataclass(frozen=True)
class Member:
    """One entry of an archive: name, unpacked bytes, and "file", "folder" or what else it is."""

    name: str
    size: int
    kind: str


def is_one(path: Path) -> bool:
    """Whether the file is a zip or tar archive, by its content."""
    if not path.is_file():
        return False
    return _start(path).startswith(_MAGIC) or zipfile.is_zipfile(path) or _is_tar(path)


def read(path: Path, limits: Limits | None = None) -> Incoming:
    """The archive's files.

    Raises:
        GraftError: the archive is damaged or encrypted, a member's name leads outside or names a link
            or device, it unpacks to more than `limits`, or it is in none of the three layouts.
    """
    limits = limits or Limits()
    zipped = zipfile.is_zipfile(path) or _start(path).startswith(b"PK")
    members, contents = (_zip_members, _zip_contents) if zipped else (_tar_members, _tar_contents)
    with _damage_named(path):
        files = checked(members(path), path.stat().st_size, limits, str(path))
    placed = arrange(files, str(path))
    names = {files[file]: name for file, name in placed.items()}
    return Incoming(contents(path, names), len(names), left_out(len(files), len(names)))


def checked(members: Iterable[Member], packed: int, limits: Limits, where: str) -> dict[PurePosixPath, str]:
    """The safe relative path of each file, and the member's name; stops at the first bad member.

    Args:
        members: The entries, in order.
        packed: Size of the archive, bytes.
        limits: Bounds against decompression bombs.
        where: Named in errors.

    Raises:
        GraftError: a member is unsafe or the archive unpacks to more than `limits`.
    """
    files: dict[PurePosixPath, str] = {}
    size = 0
    for number, member in enumerate(members, 1):
        path = _safe_path(member, where)
        size += member.size
        _refuse_bomb(member, number, size, packed, limits, where)
        if member.kind == "file":
            if path in files:
                raise GraftError(f"{where} holds {member.name!r} twice", "pack it again, each file once")
            files[path] = member.name
    _refuse_files_as_folders(files, where)
    return files


def _safe_path(member: Member, where: str) -> PurePosixPath:
    plain = member.name.replace("\\", "/")  # as some Windows programs write it
    parts = [part for part in plain.split("/") if part not in ("", ".")]
    problem = ""
    if plain.startswith("/") or re.match(r"[A-Za-z]:", plain):
        problem = "has an absolute path"
    elif ".." in parts:
        problem = "leads outside of the archive"
    elif member.kind not in ("file", "folder"):
        problem = f"is a {member.kind}"
    elif not _is_name(plain, parts) or (member.kind == "file" and not parts):
        problem = "has a name that is no file name"
    if problem:
        raise GraftError(
            f"{where}: the member {member.name!r} {problem}; nothing was unpacked",
            "pack the images again, as plain files with relative names",
        )
    return PurePosixPath(*parts)


def _is_name(plain: str, parts: list[str]) -> bool:
    try:
        sizes = [len(part.encode()) for part in parts]
    except UnicodeEncodeError:  # bytes that are not UTF-8
        return False
    return "\x00" not in plain and max(sizes, default=0) <= 255 and sum(sizes) <= 1000


def _refuse_bomb(member: Member, number: int, size: int, packed: int, limits: Limits, where: str) -> None:
    gib = 2**30
    problem = ""
    if member.size < 0:
        problem = f"says that {member.name!r} has {member.size} bytes"
    elif number > limits.files:
        problem = f"holds more than {limits.files} members"
    elif member.size > limits.file_size:
        problem = f"holds {member.name!r} of {member.size / gib:.1f} GiB, larger than any image"
    elif size > limits.size:
        problem = f"unpacks to more than {limits.size / gib:.1f} GiB"
    elif size > limits.ratio_from and size > limits.ratio * packed:
        problem = f"unpacks to more than {limits.ratio:.0f} times its size"
    if problem:
        raise GraftError(
            f"{where} {problem}: it looks like a decompression bomb; nothing was unpacked",
            "if you trust it, unpack it yourself and import the folder",
        )


def _refuse_files_as_folders(files: dict[PurePosixPath, str], where: str) -> None:
    for path, name in files.items():
        if any(parent in files for parent in path.parents):
            raise GraftError(f"{where}: {name!r} lies inside another file", "pack the images again")


def _zip_members(path: Path) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.flag_bits & 1:
                raise GraftError(
                    f"{path}: the member {info.filename!r} is encrypted",
                    "unpack it with its password and import the folder",
                )
            mode = stat.S_IFMT(info.external_attr >> 16)
            kind = "folder" if info.is_dir() else "file"
            if mode not in (0, stat.S_IFREG, stat.S_IFDIR):
                kind = "link" if mode == stat.S_IFLNK else "device"
            yield Member(info.orig_filename, info.file_size, kind)


def _zip_contents(path: Path, names: dict[str, PurePosixPath]) -> Iterator[tuple[PurePosixPath, bytes]]:
    with _damage_named(path), zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.orig_filename in names:
                yield names[info.orig_filename], archive.read(info)


def _tar_members(path: Path) -> Iterator[Member]:
    with _tar(path) as archive:
        for info in archive:
            kind = "file" if info.isreg() else "folder" if info.isdir() else "device"
            yield Member(info.name, info.size, "link" if info.issym() or info.islnk() else kind)


def _tar_contents(path: Path, names: dict[str, PurePosixPath]) -> Iterator[tuple[PurePosixPath, bytes]]:
    with _damage_named(path), _tar(path) as archive:
        for info in archive:
            stream = archive.extractfile(info) if info.name in names else None
            if stream is not None:
                content = stream.read()
                if len(content) != info.size:
                    raise EOFError(f"{info.name} is cut off")
                yield names[info.name], content


class _Bounded:
    """A stream that refuses to read at once what only a forged header asks for (contents come in pieces)."""

    most = 2**26

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int) -> bytes:
        if size > self.most:
            raise tarfile.ReadError(f"a header asks for {size} bytes")
        return self.stream.read(size)


@contextmanager
def _tar(path: Path) -> Iterator[tarfile.TarFile]:
    start = _start(path)
    opener = next((opener for magic, opener in _OPENERS.items() if start.startswith(magic)), open)
    with opener(path, "rb") as stream:
        bounded = cast(IO[bytes], _Bounded(stream))
        with tarfile.open(fileobj=bounded, mode="r:", errorlevel=2) as archive:
            yield archive


def _start(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(6)


def _is_tar(path: Path) -> bool:
    try:
        with _tar(path):
            return True
    except (*_DAMAGE, OSError):
        return False


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except (*_DAMAGE, NotImplementedError) as error:
        raise GraftError(
            f"{path} is damaged, or packed in a way Python cannot read: {error}",
            "download or pack it again; or unpack it yourself and import the folder",
        ) from error
