"""The three layouts of a data folder (`<class>/*`; splits above it; source/ and target/ above those).

Pure functions of relative paths, so that folders and archives are judged alike and before anything
is written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from graft.errors import GraftError

DOMAINS = ("source", "target")
SPLITS = ("train", "val", "test")
UNLABELED = "unlabeled"
SPLIT_CALLED = {name: name for name in (*SPLITS, UNLABELED)} | {
    "training": "train",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "testing": "test",
    "unlabelled": UNLABELED,
}
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"),
    *(".ppm", ".pgm", ".pbm", ".avif", ".heic", ".jp2"),
)
FIX_LAYOUT = (
    "lay it out as CLASS/*.jpg, or {train,val,test}/CLASS/*.jpg, "
    "or source/ and target/ each laid out in one of these two ways, with optional unlabeled/"
)
_CLUTTER = {"__MACOSX", "Thumbs.db", "desktop.ini"}

Tree = Mapping[PurePosixPath, tuple[str, ...]]  # a file's path in the source -> what is left to place


@dataclass(frozen=True)
class Incoming:
    """What a source holds.

    Attributes:
        files: Pairs of the path in the data folder and the content: bytes, or a file to link or copy.
        total: Their number.
        notes: Sentences for the user, such as what was left out.
    """

    files: Iterable[tuple[PurePosixPath, bytes | Path]]
    total: int
    notes: tuple[str, ...] = ()


def arrange(files: Iterable[PurePosixPath], where: str) -> dict[PurePosixPath, PurePosixPath]:
    """Where each file of a source goes in the data folder.

    Single folders around the whole are unwrapped and splits get their names ("validation" -> "val").
    Left out: the clutter of operating systems, and files that are no images beside classes or splits
    (a README). Files inside a class all stay, whatever they are: data_validation judges them.

    Args:
        files: Relative paths, without "..".
        where: Named in errors.

    Raises:
        GraftError: nothing is there, or it is in none of the three layouts.
    """
    inside = {file: file.parts for file in files if not _is_clutter(file)}
    _refuse_unwritable(inside, where)
    if not inside:
        raise GraftError(f"{where} holds no files", f"give a folder that holds images; {FIX_LAYOUT}")
    placed = _domains(_unwrapped(inside), where)
    names = {file: PurePosixPath(*parts) for file, parts in placed.items()}
    if {split for splits in count(names.values()).values() for split in splits} <= {UNLABELED}:
        raise GraftError(f"{where} holds no folder of labelled images", FIX_LAYOUT)
    return names


def count(names: Iterable[PurePosixPath]) -> dict[str, dict[str, dict[str, int]]]:
    """Files per domain, split and class of a data folder; "" where there is no such level."""
    counts: dict[str, dict[str, dict[str, int]]] = {}
    for name in sorted(names):
        parts = list(name.parts)
        domain = parts.pop(0) if parts[0] in DOMAINS else ""
        split = parts.pop(0) if parts[0] in (*SPLITS, UNLABELED) else ""
        of_split = counts.setdefault(domain, {}).setdefault(split, {})
        label = "" if split == UNLABELED else parts[0]
        of_split[label] = of_split.get(label, 0) + 1
    return counts


def class_folders(labels: Iterable[str], where: str) -> list[str]:
    """Folder names for class names, which may hold what a path may not (as in "T-shirt/top").

    Raises:
        GraftError: a name is empty, or two of them would share a folder.
    """
    labels = list(labels)
    folders = [re.sub(r'[\\/:*?"<>|\x00-\x1f]+', "-", label).strip(" .") for label in labels]
    for position, name in enumerate(folders):
        if not name or len(name.encode()) > 200 or name in _CLUTTER:
            raise GraftError(f"{where}: the class name {labels[position]!r} names no folder", "rename it")
        if name in folders[:position]:
            other = labels[folders.index(name)]
            raise GraftError(
                f"{where}: the classes {other!r} and {labels[position]!r} would share the folder {name}",
                "rename one of them",
            )
    return folders


def left_out(total: int, placed: int) -> tuple[str, ...]:
    """A note about files that were not taken, if there are any."""
    rest = total - placed
    return (f"left out {rest} files that are not images of a class (such as a README)",) if rest else ()


def _refuse_unwritable(files: Iterable[PurePosixPath], where: str) -> None:
    for file in files:
        try:
            str(file).encode()
        except UnicodeEncodeError:
            raise GraftError(f"{where} holds {str(file)!r}: its name is not UTF-8", "rename it") from None


def _is_clutter(file: PurePosixPath) -> bool:
    return any(part.startswith(".") or part in _CLUTTER for part in file.parts)


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES)


def _folders(tree: Tree) -> list[str]:
    return sorted({parts[0] for parts in tree.values() if len(parts) > 1})


def _below(tree: Tree, folder: str) -> Tree:
    return {file: parts[1:] for file, parts in tree.items() if len(parts) > 1 and parts[0] == folder}


def _unwrapped(tree: Tree) -> Tree:
    while len(folders := _folders(tree)) == 1 and not _has_loose_images(tree):
        below = _below(tree, folders[0])
        is_class = _has_loose_images(below) or not _folders(below)
        if is_class or folders[0].lower() in (*SPLIT_CALLED, *DOMAINS):
            break
        tree = below
    return tree


def _has_loose_images(tree: Tree) -> bool:
    return any(len(parts) == 1 and _is_image(parts[0]) for parts in tree.values())


def _refuse_loose_images(tree: Tree, where: str) -> None:
    loose = sorted(parts[0] for parts in tree.values() if len(parts) == 1 and _is_image(parts[0]))
    if loose:
        beside = f" beside the folders {_listed(_folders(tree))}" if _folders(tree) else ""
        raise GraftError(
            f"{where} holds loose images ({_listed(loose)}){beside}: their class is unknown",
            f"move each into a folder named after its class; {FIX_LAYOUT}",
        )


def _domains(tree: Tree, where: str) -> dict[PurePosixPath, tuple[str, ...]]:
    folders = _folders(tree)
    if not {name.lower() for name in folders} & set(DOMAINS):
        return _splits(tree, where)
    _refuse_loose_images(tree, where)
    if sorted(name.lower() for name in folders) != list(DOMAINS):
        raise GraftError(
            f"{where} holds {_listed(folders)}: not just source/ and target/",
            "keep exactly these two folders for two domains; rename a class that is called so",
        )
    placed = {}
    for name in folders:
        for file, parts in _splits(_below(tree, name), f"{where}/{name}").items():
            placed[file] = (name.lower(), *parts)
    return placed


def _splits(tree: Tree, where: str) -> dict[PurePosixPath, tuple[str, ...]]:
    folders = _folders(tree)
    _refuse_loose_images(tree, where)
    if not {name.lower() for name in folders} & set(SPLITS):
        return _classes(tree, where)
    _refuse_mixture(folders, where)
    placed = {}
    for name in folders:
        split, below = SPLIT_CALLED[name.lower()], _below(tree, name)
        inside = dict(below) if split == UNLABELED else _classes(below, f"{where}/{name}")
        placed.update({file: (split, *parts) for file, parts in inside.items()})
    return placed


def _refuse_mixture(folders: list[str], where: str) -> None:
    splits = [name for name in folders if name.lower() in SPLIT_CALLED]
    others = [name for name in folders if name not in splits]
    if others:
        raise GraftError(
            f"{where} holds {_listed(others)} beside the splits {_listed(splits)}",
            "move these folders into the splits, or away; rename a class that is called like a split",
        )
    if len({SPLIT_CALLED[name.lower()] for name in splits}) < len(splits):
        raise GraftError(f"{where} holds two folders for one split among {_listed(splits)}", "merge the two")


def _classes(tree: Tree, where: str) -> dict[PurePosixPath, tuple[str, ...]]:
    _refuse_loose_images(tree, where)
    inner = {parts[1].lower() for parts in tree.values() if len(parts) > 2}
    if found := sorted(inner & {*SPLITS, *DOMAINS}):
        raise GraftError(
            f"{where} holds {_listed(_folders(tree))}, and {_listed(found)} below that", FIX_LAYOUT
        )
    return {
        file: (UNLABELED if SPLIT_CALLED.get(parts[0].lower()) == UNLABELED else parts[0], *parts[1:])
        for file, parts in tree.items()
        if len(parts) > 1
    }


def _listed(names: list[str], most: int = 4) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > most else ""
    return ", ".join(names[:most]) + more
