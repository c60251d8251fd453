"""From what a user has to a data folder: digits, folders, archives, Parquet, torchvision's datasets.

Each kind of source is one file whose `read` lists what goes where (an `Incoming`); the writing is
here, the same for all of them.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path, PurePosixPath
from typing import Any

from graft.errors import GraftError
from graft.files import whole_folder
from graft.images.importing import archive, digits, folder, parquet, torchvision_sets
from graft.images.importing.layout import Incoming, count
from graft.progress import track

KINDS = "digits, torchvision:NAME, a folder of images, a zip or tar archive, Parquet (a file or a folder)"


def import_data(source: str, destination: str | Path, *, root: str | Path | None = None) -> dict[str, Any]:
    """Write the data folder `destination` from `source`; it appears whole or not at all.

    Args:
        source: "digits", "torchvision:NAME", or the path of a folder, an archive or Parquet.
        destination: The data folder to make; it must be absent or empty. Digits onto the same digits
            are accepted: nothing is written then.
        root: Where torchvision's files are, or are downloaded to (torchvision sources only).

    Returns:
        A summary: source, destination, files (their number), counts {domain: {split: {class: files}}}
        where "" stands for the only domain, for no split and for the class of what has no label,
        unchanged (the destination held this already), notes (sentences for the user).

    Raises:
        GraftError: the source is unknown, damaged, unsafe or laid out in no way graft knows, or the
            destination is occupied.
    """
    target = Path(destination).expanduser().resolve()
    if source != "digits":
        _refuse_occupied(target)  # before a long look at the source
    incoming = _read(str(source), target, root)
    notes = list(incoming.notes)
    unchanged = source == "digits" and _holds(target, incoming)
    if unchanged:
        notes.append(f"{destination} already holds exactly these files; nothing was written")
        names = [name for name, _ in incoming.files]
    else:
        _refuse_occupied(target)
        names = _write(incoming, target)
    return {
        "source": str(source),
        "destination": str(destination),
        "files": len(names),
        "counts": count(names),
        "unchanged": unchanged,
        "notes": notes,
    }


def _read(source: str, target: Path, root: str | Path | None) -> Incoming:
    if source.startswith("torchvision:"):
        return torchvision_sets.read(source.removeprefix("torchvision:"), root)
    if root is not None:
        raise GraftError(
            f"--root {root} was given with {source!r}", "leave it out: only torchvision: uses it"
        )
    if source == "digits":
        return digits.read()
    path = Path(source).expanduser()
    if not path.exists():
        raise GraftError(f"the source {source!r} does not exist", _meant(source))
    if path.is_dir() and path.resolve() in target.parents:
        raise GraftError(
            f"the destination {target} lies inside the source {source}", "name a destination outside of it"
        )
    for kind in (parquet, archive, folder):
        if kind.is_one(path):
            return kind.read(path)
    raise GraftError(f"{source} is neither a zip or tar archive nor Parquet", f"give one of: {KINDS}")


def _meant(source: str) -> str:
    known = {name.lower(): name for name in torchvision_sets.NAMES}
    if source.lower() in known:
        return f"did you mean torchvision:{known[source.lower()]} ?"
    if "://" in source:
        return "download it to this machine first, then give the path of the folder or file"
    return f"correct the path, or give one of: {KINDS}"


def _refuse_occupied(target: Path) -> None:
    empty = target.is_dir() and not any(target.iterdir())
    if target.exists() and not empty:
        raise GraftError(
            f"the destination {target} exists and is not an empty folder",
            "name another destination, or remove this one first",
        )


def _holds(target: Path, incoming: Incoming) -> bool:
    """Whether the folder holds these files, to the byte, and no others."""
    there = {file.relative_to(target).as_posix() for file in target.rglob("*") if file.is_file()}
    wanted = {name.as_posix(): content for name, content in incoming.files}
    return there == set(wanted) and all((target / name).read_bytes() == wanted[name] for name in there)


def _write(incoming: Incoming, target: Path) -> list[PurePosixPath]:
    written = []
    with whole_folder(target) as temporary:
        for name, content in track(incoming.files, "importing", total=incoming.total, unit="files"):
            _put(content, temporary / name)
            written.append(name)
    return written


def _put(content: bytes | Path, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        file.write_bytes(content)
        return
    try:
        os.link(content, file)
    except OSError:  # another disk, or one without hard links
        shutil.copyfile(content, file)
