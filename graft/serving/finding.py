"""Image files on disk, from what a user names: files, folders and patterns."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from graft.errors import GraftError
from graft.progress import say

SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".pnm", ".tif", ".tiff", ".webp",
)  # fmt: skip


def find_images(places: Sequence[str]) -> list[Path]:
    """The files that are meant, each once, in the order of `places`.

    Args:
        places: A file is taken whatever its name is, and also if it does not exist, so that its row can
            say so. Of a folder, every image by its suffix, at any depth, sorted, without hidden ones.
            A pattern such as `new/**/*.jpg` means the files that match, sorted.

    Raises:
        GraftError: none of them exists.
    """
    found: dict[Path, None] = {}
    for place in places:
        files = list(_files(place))
        if not files:
            say(f"{place}: no image here")
        found.update(dict.fromkeys(files))
    if not any(path.is_file() for path in found):
        raise GraftError(
            f"no image found in {', '.join(places) or 'what was given: nothing'}",
            f"name files, folders with images ({', '.join(SUFFIXES)}) or a quoted pattern such as "
            "'new/**/*.jpg'",
        )
    return list(found)


def _files(place: str) -> Iterable[Path]:
    path = Path(place).expanduser()
    if path.is_dir():
        return sorted(_in_folder(path))
    if path.exists() or not glob.has_magic(place):  # a file may have a bracket in its name
        return [path]
    matches = (Path(match) for match in glob.glob(str(path), recursive=True))
    return sorted(match for match in matches if match.is_file())


def _in_folder(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in SUFFIXES and not hidden and path.is_file():
            yield path
