"""A look at every file of a data folder: does it decode, how large is it, what does it look like."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from graft.images.decoding import DECODERS, BrokenImage, decode, open_image, shared_out, threads
from graft.images.duplicates import SIDE, SMALL, conflicts, reduce
from graft.images.scanning import Found
from graft.params import Data
from graft.progress import say, track
from graft.storage.rows import add_rows, fetch_rows

Pixels = npt.NDArray[np.uint8]
FACTS = ["width", "height", "mode", "sha256", "reason"]
FORMAT = "graft inspection 1"  # another number when a file would be seen with other eyes
MOST_KEPT = 2**30  # bytes: what was seen in half a million files
PART = 4096  # files between two writes of it
SEEN = np.dtype(
    [
        ("sha256", "S64"),  # empty where the file was not read
        ("reason", "S256"),  # why it is left out; empty where it is not
        ("mode", "S16"),
        ("width", np.int32),
        ("height", np.int32),
        ("grey", np.uint8, (SIDE, SIDE)),
        ("small", np.uint8, (SMALL, SMALL, 3)),
    ]
)


def inspect(folder: Path, files: Sequence[Found], params: Data) -> tuple[pd.DataFrame, Pixels, Pixels]:
    """Look at every file, in threads: decode it, unless the same bytes were decoded before.

    What was seen is kept below GRAFT_HOME, where the environment names it, under the content's SHA-256
    and all else that decides it. The result is the same.

    Returns:
        One row per file: path, domain, split and label as found; width, height, mode, sha256; conflict:
        an equal image has another label; reason: why the file is left out, missing where it is not.
        Then `duplicates.reduce` of each: (N, 32, 32) and (N, 16, 16, 3), 0 where it does not decode.
    """
    seen = np.zeros(len(files), SEEN)
    home = os.environ.get("GRAFT_HOME")
    store = str(Path(home).absolute() / "inspection") if home else None
    group = json.dumps([FORMAT, *DECODERS, params.min_side, params.max_pixels])
    with threads() as pool:
        missing = np.flatnonzero(~_fetched(store, group, pool, folder, files, seen))
        looks = shared_out(pool, lambda at: _look(folder, files[at], params), missing.tolist())
        tracked = track(looks, "decoding", total=len(missing), unit="images")
        for part in np.split(missing, range(PART, len(missing), PART)):
            for position, look in zip(part.tolist(), tracked, strict=False):  # the part ends first
                seen[position] = look
            _keep(store, group, seen[part])
    facts = pd.DataFrame([_facts(each) for each in seen], columns=FACTS).astype({"reason": object})
    frame = pd.DataFrame([vars(file) for file in files]).join(facts)
    return _without_conflicts(frame), seen["grey"].copy(), seen["small"].copy()


def _fetched(
    store: str | None,
    group: str,
    pool: ThreadPoolExecutor,
    folder: Path,
    files: Sequence[Found],
    seen: np.ndarray,
) -> np.ndarray:
    """Fill in what is kept of these files; bool (N,), of which something was."""

    def digest(file: Found) -> str:
        try:
            return hashlib.sha256(_content(folder, file)).hexdigest()
        except BrokenImage:
            return ""

    if store is None or not Path(store).is_dir():
        return np.zeros(len(files), bool)
    keys = list(track(shared_out(pool, digest, files), "comparing", total=len(files), unit="files"))
    known = fetch_rows(store, group, keys, seen)
    if known.any():
        say(f"{known.sum()} of {len(files)} files are as they were, and were decoded before")
    return known


def _keep(store: str | None, group: str, seen: np.ndarray) -> None:
    read = seen[seen["sha256"] != b""]
    if store is not None and len(read):
        add_rows(store, group, [key.decode() for key in read["sha256"].tolist()], read, limit=MOST_KEPT)


def _look(folder: Path, file: Found, params: Data) -> np.ndarray:
    """What there is to see in a file, as one SEEN."""
    seen = np.zeros((), SEEN)
    try:
        content = _content(folder, file)
        seen["sha256"] = hashlib.sha256(content).hexdigest()
        mode = open_image(content).mode
        image = decode(content, min_side=params.min_side, max_pixels=params.max_pixels)
        seen["mode"], seen["width"], seen["height"] = mode, image.width, image.height
        seen["grey"], seen["small"] = reduce(image)
    except BrokenImage as broken:
        seen["reason"] = broken.reason.encode()
    return seen


def _content(folder: Path, file: Found) -> bytes:
    if file.label is None and file.split != "unlabeled":
        raise BrokenImage("outside any class folder")
    try:
        with open(os.path.join(folder, file.path), "rb", buffering=0) as stream:
            return stream.read()
    except OSError as error:
        raise BrokenImage(f"cannot be read: {error.strerror}") from error


def _facts(seen: np.void) -> dict[str, Any]:
    """Those in FACTS; of a file that is left out, the reason alone."""
    if seen["reason"]:
        return {"reason": seen["reason"].decode(errors="ignore")}
    words = {name: seen[name].decode() for name in ("mode", "sha256")}
    return {"width": int(seen["width"]), "height": int(seen["height"]), **words}


def _without_conflicts(frame: pd.DataFrame) -> pd.DataFrame:
    """Leave out equal images with different labels: at most one of them can be right."""
    other = conflicts(frame)
    frame["conflict"] = other.notna()
    for row, path in other.dropna().items():
        frame.loc[row, "reason"] = f"equals {path}, which has another label"
    return frame
