"""A table's images to one tensor. What was decoded once is kept, so that no later step does it again."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from graft.errors import GraftError
from graft.images.decoding import DECODERS, BrokenImage, shared_out, threads, to_pixels
from graft.images.memory import room_for
from graft.images.preprocessing import Preprocessing
from graft.images.table import ImageTable
from graft.progress import say, track
from graft.storage.rows import SHARD_BYTES, add_rows, fetch_rows

FORMAT = "graft pixels 1"
NEAR = 1 / 3  # of a GPU's free memory that one set of pixels may take
MOST_KEPT = 20 * 2**30  # bytes of pixels, or a tenth of the free disk where that is less
ROWS = ["sha256", "path", "domain", "split"]


@dataclass(frozen=True)
class Images:
    """Images in memory, ready for a network.

    Attributes:
        pixels: uint8 (N, 3, R, R); mapped from a file where memory would not do, on a GPU after `near`.
        labels: int64 (N,); -1 where there is none.
        rows: sha256, path, domain and split, N rows in the same order.
    """

    pixels: Tensor
    labels: Tensor
    rows: pd.DataFrame

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor | np.ndarray | slice) -> Images:
        """The images at these positions, or where a mask is true."""
        at = np.arange(len(self))[index if isinstance(index, slice) else np.asarray(index)]
        rows = self.rows.iloc[at].reset_index(drop=True)
        if isinstance(index, slice):  # views, not copies
            return Images(self.pixels[index], self.labels[index], rows)
        return Images(self.pixels[torch.from_numpy(at)], self.labels[torch.from_numpy(at)], rows)


def near(images: Images, device: torch.device) -> Images:
    """The images with their pixels on a GPU, if a third of its free memory holds them; else as they are."""
    if images.pixels.nbytes > NEAR * _free_memory(device):
        return images
    return replace(images, pixels=images.pixels.to(device))


def _free_memory(device: torch.device) -> int:
    """Bytes; of the CPU, where the pixels are already, none."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


def load_images(table: ImageTable, index: pd.Index, preprocessing: Preprocessing) -> Images:
    """Rows of a table as one tensor, decoded in threads.

    Where the environment names GRAFT_HOME, pixels are kept below it by the image's SHA-256 and by what
    else decides them: only images that are not there yet are read and decoded. The result is the same.

    Args:
        table: The image table.
        index: Rows, as `table.select` gives them.
        preprocessing: Decides the size of the pixels, R.

    Raises:
        GraftError: an image cannot be decoded any more; there is no room for the pixels.
    """
    side = preprocessing.resize_size
    pixels = room_for((len(index), 3, side, side), f"the pixels of {len(index)} images")
    rows = table.rows.loc[index, [*ROWS, "label"]].reset_index(drop=True)
    with _kept(rows["sha256"].to_numpy(), pixels, preprocessing) as (missing, keep):
        done: list[int] = []
        most = max(1, SHARD_BYTES // max(1, pixels[:1].nbytes))
        decoded = _decode_into(pixels, missing, table, index, preprocessing)
        for position in track(decoded, "decoding", total=len(missing), unit="images"):
            done.append(position)
            if len(done) == most:
                keep(done)
                done = []
        keep(done)
    return Images(torch.from_numpy(pixels), torch.tensor(rows["label"].to_numpy()), rows[ROWS])


@contextmanager
def _kept(
    keys: np.ndarray, pixels: np.ndarray, preprocessing: Preprocessing
) -> Iterator[tuple[np.ndarray, Callable[[list[int]], None]]]:
    """Fill in pixels that are kept; gives positions of the others, and a function that keeps some of them.

    It keeps as many as there is room for beside those just used: more would drive these out, and the
    next load of the same images would find nothing.
    """
    home = os.environ.get("GRAFT_HOME")
    if not home or not len(keys):
        yield np.arange(len(keys)), lambda part: None
        return
    store = Path(home).absolute() / "pixels"
    store.mkdir(parents=True, exist_ok=True)
    group = json.dumps([FORMAT, *DECODERS, f"torch {torch.__version__}", *_deciding(preprocessing)])
    known = fetch_rows(str(store), group, keys.tolist(), pixels)
    if known.any() and not known.all():
        say(f"{known.sum()} of {len(keys)} images were decoded before")
    limit = min(MOST_KEPT, shutil.disk_usage(store).free // 10)
    room = max(0, limit // pixels[0].nbytes - int(known.sum()))
    writing: list[Future[None]] = []

    def keep(part: list[int]) -> None:
        nonlocal room
        part, room = part[:room], max(0, room - len(part))
        for before in writing:
            before.result()
        if len(part):
            given = (str(store), group, keys[part].tolist(), pixels[part])
            writing[:] = [writer.submit(add_rows, *given, limit=limit)]

    with ThreadPoolExecutor(1) as writer:  # the disk is written to while others are decoded
        yield np.flatnonzero(~known), keep


def _deciding(preprocessing: Preprocessing) -> tuple[int, int, str]:
    """What of it decides the pixels; mean and deviation do not."""
    return preprocessing.resize_size, preprocessing.input_size, preprocessing.interpolation


def _decode_into(
    pixels: np.ndarray, missing: np.ndarray, table: ImageTable, index: pd.Index, preprocessing: Preprocessing
) -> Iterator[int]:
    """Decode the images at these positions to where they belong, in threads; yields positions as done.

    While one part of the table is decoded, the next one is read: no more files are in memory.
    """

    def decode(item: tuple[bytes, int]) -> int:
        content, position = item
        try:
            pixels[position] = to_pixels(content, preprocessing)
        except BrokenImage as broken:
            path = table.rows.loc[index[position], "path"]
            problem = f"{path} in the image table {table.path} cannot be decoded: {broken.reason}"
            raise GraftError(problem, "run data_validation again") from None
        return position

    with threads() as pool:
        before: Iterator[int] = iter(())
        for positions, contents in table.parts(index[missing]):
            items = list(zip(contents, missing[positions].tolist(), strict=True))
            begun = shared_out(pool, decode, items)
            yield from before
            before = begun
        yield from before
