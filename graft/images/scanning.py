"""A data folder's files with their domain, split and class, in any of the three layouts.

`<class>/*`; `{train,val,test}/<class>/*`; or `source/` and `target/`, each in one of these two ways;
with an optional `unlabeled/` beside the classes or splits, or (for the target) beside the domains.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from graft.errors import GraftError
from graft.images.importing.layout import DOMAINS, FIX_LAYOUT, IMAGE_SUFFIXES, SPLIT_CALLED, UNLABELED

Place = tuple[str, str, "str | None"]  # domain, split, label
CLUTTER = ("__MACOSX", "Thumbs.db", "desktop.ini")  # and all that begins with a dot


@dataclass(frozen=True)
class Found:
    """One file.

    Attributes:
        path: Relative to the data folder, with "/".
        domain: "source", "target", or "" where there is one domain.
        split: "train", "val", "test" or "unlabeled" as the folder says; "" where it does not say.
        label: Name of the class; None where unlabelled, and for an image outside any class.
    """

    path: str
    domain: str
    split: str
    label: str | None


@dataclass(frozen=True)
class Scan:
    """What a data folder holds.

    Attributes:
        files: All files inside classes and unlabeled/, and images outside any class; sorted by path.
        classes: Names, sorted.
        domains: ("source", "target"), or ("",).
        ignored: Files that are not looked at: hidden ones, and what lies beside the class folders.
    """

    files: tuple[Found, ...]
    classes: tuple[str, ...]
    domains: tuple[str, ...]
    ignored: tuple[str, ...]


def scan(folder: Path) -> Scan:
    """Walk a data folder.

    Raises:
        GraftError: it is missing or empty, in none of the three layouts, has fewer than two classes,
            classes that differ only in case, or a class with fewer than two images.
    """
    _refuse_absent(folder)
    names = sorted(_walk(folder))
    seen = [name for name in names if not is_hidden(name)]
    if not seen:
        raise GraftError(f"the data folder {folder} is empty", f"put images there: {FIX_LAYOUT}")
    class_folders = _class_folders(folder)
    files = _assigned(seen, class_folders)
    taken = {file.path for file in files}
    labels = {label for _, _, label in class_folders.values() if label is not None}
    domains = tuple(sorted({domain for domain, _, _ in class_folders.values()}))
    found = Scan(files, tuple(sorted(labels)), domains, tuple(n for n in names if n not in taken))
    _refuse_spellings(class_folders)
    _refuse_one_class(folder, found)
    _refuse_small_classes(class_folders, files)
    _refuse_strange_targets(class_folders)
    return found


def is_hidden(name: str) -> bool:
    """Whether any part of a relative path is hidden, or the clutter of an operating system."""
    return any(part.startswith(".") or part in CLUTTER for part in name.split("/"))


def spelling(label: str) -> str:
    """What remains of a class name that is written differently: case, accents' encoding, blanks."""
    return unicodedata.normalize("NFC", label).casefold().strip()


def _refuse_absent(folder: Path) -> None:
    if folder.is_file():
        raise GraftError(f"{folder} is a file, not a data folder", f"graft import {folder} data/")
    if not folder.is_dir():
        fix = "give the folder that holds the images, or make the default set: graft import digits data/"
        raise GraftError(f"the data folder {folder} does not exist", fix)


def _walk(folder: Path) -> Iterator[str]:
    """All files, relative; links to files count as files, links to folders are not followed below."""
    for place, _, names in os.walk(folder):
        for name in names:
            yield Path(place, name).relative_to(folder).as_posix()


def _class_folders(folder: Path) -> dict[str, Place]:
    """Relative path of each class folder and unlabeled folder -> (domain, split, label)."""
    domains = _folders(folder)
    if not set(DOMAINS) <= set(domains):
        return dict(_in_domain(folder, "", ""))
    below = {place: _unlabeled("target") for place in domains if _split_of(place) == UNLABELED}
    if extra := [place for place in domains if place not in (*DOMAINS, *below)]:
        fix = "keep only source/, target/ and unlabeled/ there, or rename a class that is called so"
        raise GraftError(f"{folder} holds {_listed(extra)} beside source/ and target/", fix)
    return below | {p: of for domain in DOMAINS for p, of in _in_domain(folder, f"{domain}/", domain)}


def _in_domain(folder: Path, prefix: str, domain: str) -> Iterator[tuple[str, Place]]:
    places = _folders(folder / prefix)
    splits = [name for name in places if _split_of(name) not in ("", UNLABELED)]
    classes = [name for name in places if not _split_of(name)]
    unlabeled = any(_split_of(name) == UNLABELED for name in (*places, *_folders(folder)))
    # Of a target nothing need be labelled but what tells how good the model is there.
    _refuse_layout(folder / prefix, splits, classes, train=domain != "target" or not unlabeled)
    for name in places:
        if _split_of(name) == UNLABELED:
            yield f"{prefix}{name}", _unlabeled(domain)
    for name in classes:
        yield f"{prefix}{name}", (domain, "", name)
    for split in splits:
        for name in _classes_of_split(folder / prefix / split):
            yield f"{prefix}{split}/{name}", (domain, _split_of(split), name)


def _refuse_layout(place: Path, splits: list[str], classes: list[str], *, train: bool) -> None:
    if not splits and not classes:
        raise GraftError(f"{place} holds no class folders", FIX_LAYOUT)
    if splits and classes:
        fix = "move these folders into the splits, or away; rename a class that is called like a split"
        raise GraftError(f"{place} holds {_listed(classes)} beside the splits {_listed(splits)}", fix)
    if train and splits and "train" not in map(_split_of, splits):
        raise GraftError(f"{place} holds {_listed(splits)} but no train folder", f"add train/; {FIX_LAYOUT}")


def _classes_of_split(place: Path) -> list[str]:
    classes = _folders(place)
    if not classes:
        fix = f"sort its images into {place.name}/CLASS/, or move those without a label to unlabeled/"
        raise GraftError(f"{place} holds no class folders", fix)
    return classes


def _assigned(names: Iterable[str], class_folders: dict[str, Place]) -> tuple[Found, ...]:
    files = []
    for name in names:
        parts = name.split("/")
        parents = ("/".join(parts[:depth]) for depth in range(1, len(parts)))
        parent = next((parent for parent in parents if parent in class_folders), None)
        if parent is not None:
            files.append(Found(name, *class_folders[parent]))
        elif name.lower().endswith(IMAGE_SUFFIXES):  # misplaced: listed as broken, not passed over
            files.append(Found(name, parts[0] if set(parts[:1]) <= set(DOMAINS) else "", "", None))
    return tuple(files)


def _refuse_spellings(class_folders: dict[str, Place]) -> None:
    spellings: dict[str, dict[str, str]] = defaultdict(dict)
    for place, (_, _, label) in sorted(class_folders.items()):
        if label is not None:
            spellings[spelling(label)].setdefault(label, place)
    for written in spellings.values():
        if len(written) > 1:
            places = " and ".join(f"{label!r} (in {place})" for label, place in written.items())
            first = next(iter(written))
            fix = f"rename the folders so that all say the same, such as {first!r}"
            raise GraftError(f"class names differ only in how they are written: {places}", fix)


def _refuse_one_class(folder: Path, found: Scan) -> None:
    if len(found.classes) > 1:
        return
    only = found.classes[0] if found.classes else "none"
    inner = folder / only
    nested = _folders(inner) if inner.is_dir() else []
    if nested:
        raise GraftError(
            f"{folder} holds the one folder {only}, with {_listed(nested)} below it",
            f"if these are the classes or splits, give {inner} as the data folder",
        )
    raise GraftError(
        f"{folder} holds one class only: {only}", "a classifier needs two; add another class folder"
    )


def _refuse_small_classes(class_folders: dict[str, Place], files: Iterable[Found]) -> None:
    counts = Counter((file.domain, file.label) for file in files)
    for domain, label in sorted({(d, label) for d, _, label in class_folders.values() if label is not None}):
        images = counts[domain, label]
        if images < 2:
            where = f" in {domain}/" if domain else ""
            problem = f"the class {label!r}{where} has {images or 'no'} image{'s' * (images != 1)}"
            fix = "add images (one to learn from and one to test with at least), or remove its folder"
            raise GraftError(problem, fix)


def _refuse_strange_targets(class_folders: dict[str, Place]) -> None:
    known = {label for domain, _, label in class_folders.values() if domain != "target"}
    strange = {label for domain, _, label in class_folders.values() if domain == "target"} - known - {None}
    if strange:
        problem = f"target/ has classes that source/ has not: {_listed(sorted(map(str, strange)))}"
        raise GraftError(problem, "add these classes to source/, or remove them from target/")


def _unlabeled(domain: str) -> tuple[str, str, None]:
    return domain, UNLABELED, None


def _split_of(name: str) -> str:
    return SPLIT_CALLED.get(name.lower(), "")


def _folders(place: Path) -> list[str]:
    return sorted(e.name for e in place.iterdir() if e.is_dir() and not is_hidden(e.name))


def _listed(names: list[str], most: int = 5) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > most else ""
    return ", ".join(names[:most]) + more
