"""A folder of images in any of the three layouts, taken as it is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from graft.errors import GraftError
from graft.images.importing.layout import Incoming, arrange, left_out


def is_one(path: Path) -> bool:
    """Whether the path is a folder."""
    return path.is_dir()


def read(path: Path) -> Incoming:
    """The folder's files, to be hard-linked where the disk allows; bad files are kept.

    Raises:
        GraftError: it is empty or in none of the three layouts.
    """
    found = dict(_found(path))
    placed = arrange(found, str(path))
    files = [(name, found[file]) for file, name in placed.items()]
    return Incoming(files, len(files), left_out(len(found), len(files)))


def _found(folder: Path) -> Iterator[tuple[PurePosixPath, Path]]:
    """Regular files by relative path, links followed; a link back to a folder above is not."""
    above: dict[str, tuple[str, ...]] = {str(folder): ()}
    for root, folders, names in os.walk(folder, followlinks=True):
        chain = (*above.pop(root), os.path.realpath(root))
        folders[:] = sorted(f for f in folders if os.path.realpath(os.path.join(root, f)) not in chain)
        above.update({os.path.join(root, name): chain for name in folders})
        for name in sorted(names):
            file = Path(root, name)
            if file.is_symlink() and not file.exists():
                raise GraftError(f"{file} is a link to nothing", "restore what it points to, or remove it")
            if file.is_file():
                yield PurePosixPath(file.relative_to(folder).as_posix()), Path(os.path.realpath(file))
