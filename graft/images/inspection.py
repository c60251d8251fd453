"""A look at every file of a data folder: does it decode, how large is it, what does it look like."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from graft.images.decoding import BrokenImage, decode, open_image, threads
from graft.images.duplicates import SIDE, SMALL, conflicts, reduce
from graft.images.scanning import Found
from graft.params import Data
from graft.progress import track

Pixels = npt.NDArray[np.uint8]
FACTS = ["width", "height", "mode", "sha256", "reason"]


def inspect(folder: Path, files: Sequence[Found], params: Data) -> tuple[pd.DataFrame, Pixels, Pixels]:
    """Decode every file, in threads.

    Returns:
        One row per file: path, domain, split and label as found; width, height, mode, sha256; conflict:
        an equal image has another label; reason: why the file is left out, missing where it is not.
        Then `duplicates.reduce` of each: (N, 32, 32) and (N, 16, 16, 3), 0 where it does not decode.
    """
    grey = np.zeros((len(files), SIDE, SIDE), np.uint8)
    small = np.zeros((len(files), SMALL, SMALL, 3), np.uint8)

    def look(position: int) -> dict[str, Any]:
        try:
            facts, (grey[position], small[position]) = _look(folder, files[position], params)
        except BrokenImage as broken:
            return {"reason": broken.reason}
        return facts

    with threads() as pool:
        looked = track(pool.map(look, range(len(files))), "decoding", total=len(files), unit="images")
        facts = pd.DataFrame(list(looked), columns=FACTS).astype({"reason": object})
    frame = pd.DataFrame([vars(file) for file in files]).join(facts)
    return _without_conflicts(frame), grey, small


def _look(folder: Path, file: Found, params: Data) -> tuple[dict[str, Any], tuple[Pixels, Pixels]]:
    if file.label is None and file.split != "unlabeled":
        raise BrokenImage("outside any class folder")
    try:
        content = (folder / file.path).read_bytes()
    except OSError as error:
        raise BrokenImage(f"cannot be read: {error.strerror}") from error
    mode = open_image(content).mode
    image = decode(content, min_side=params.min_side, max_pixels=params.max_pixels)
    sha256 = hashlib.sha256(content).hexdigest()
    return {"width": image.width, "height": image.height, "mode": mode, "sha256": sha256}, reduce(image)


def _without_conflicts(frame: pd.DataFrame) -> pd.DataFrame:
    """Leave out equal images with different labels: at most one of them can be right."""
    other = conflicts(frame)
    frame["conflict"] = other.notna()
    for row, path in other.dropna().items():
        frame.loc[row, "reason"] = f"equals {path}, which has another label"
    return frame
