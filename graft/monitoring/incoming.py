"""New images, as they lie in a folder: no labels, no classes, some of them broken."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from graft.errors import GraftError
from graft.images.decoding import BrokenImage, threads, to_pixels
from graft.images.preprocessing import Preprocessing
from graft.images.scanning import is_hidden
from graft.progress import track

FEWEST = 20  # images on either side: with fewer no test says anything


@dataclass(frozen=True)
class NewImages:
    """A folder's images, or a random part of them.

    Attributes:
        folder: Where they are.
        pixels: uint8 (N, 3, R, R).
        paths: Relative to the folder, N, sorted.
        broken: Path and reason of the files drawn that are no usable images.
        found: Files in the folder, hidden ones aside.
    """

    folder: Path
    pixels: Tensor
    paths: tuple[str, ...]
    broken: tuple[tuple[str, str], ...]
    found: int


def read_new_images(folder: Path, preprocessing: Preprocessing, *, most: int, seed: int) -> NewImages:
    """Decode at most `most` files of a folder and of the folders in it, drawn at random.

    Raises:
        GraftError: there is no such folder, or fewer than `FEWEST` usable images in it.
    """
    if not folder.is_dir():
        kind = "is a file, not a folder" if folder.exists() else "does not exist"
        raise GraftError(f"NEW_IMAGES: {folder} {kind}", "give a folder with the new images")
    names = sorted(name for name in _walk(folder) if not is_hidden(name))
    drawn = names
    if len(names) > most:
        chosen = np.random.default_rng(seed).choice(len(names), most, replace=False)
        drawn = [names[position] for position in np.sort(chosen)]
    decoded = list(_decode(folder, drawn, preprocessing))
    usable = {name: each for name, each in zip(drawn, decoded, strict=True) if isinstance(each, np.ndarray)}
    broken = tuple((name, each) for name, each in zip(drawn, decoded, strict=True) if isinstance(each, str))
    _refuse_few(folder, len(usable), broken)
    return NewImages(folder, torch.from_numpy(np.stack([*usable.values()])), (*usable,), broken, len(names))


def _walk(folder: Path) -> Iterator[str]:
    for place, _, names in os.walk(folder):
        for name in names:
            yield Path(place, name).relative_to(folder).as_posix()


def _decode(folder: Path, names: list[str], preprocessing: Preprocessing) -> Iterator[np.ndarray | str]:
    """Pixels, or why there are none."""

    def pixels(name: str) -> np.ndarray | str:
        try:
            return to_pixels((folder / name).read_bytes(), preprocessing)
        except BrokenImage as broken:
            return broken.reason
        except OSError as error:
            return f"cannot be read: {error.strerror or error}"

    with threads() as pool:
        yield from track(pool.map(pixels, names), "decoding", total=len(names), unit="images")


def _refuse_few(folder: Path, usable: int, broken: tuple[tuple[str, str], ...]) -> None:
    if usable >= FEWEST:
        return
    first = f"; the first of {len(broken)} broken files: {': '.join(broken[0])}" if broken else ""
    raise GraftError(
        f"NEW_IMAGES: {folder} holds {usable} usable images, and {FEWEST} are needed{first}",
        "collect more new images before they are compared (100 or more tell small changes from noise)",
    )
