"""Augmented views of the training images, as Parquet shards, with the policy and a picture of them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor

from graft.errors import GraftError
from graft.files import read_json, whole_folder, write_json
from graft.images.augmentation import policy, write_policy
from graft.images.decoding import resize_crop, workers
from graft.images.preprocessing import Preprocessing
from graft.images.table import ImageTable, read_table
from graft.images.view_making import decode_squares, make_views, square_sides
from graft.images.view_sheet import draw_sheet
from graft.params import Augmentation
from graft.progress import track

FORMAT = "graft views 1"
SHARD_BYTES = 256 * 2**20  # of pixels, before compression
BATCH = 128  # images decoded and augmented at once
FRAME = ("view", "sha256", "label", "domain", "split")
SCHEMA = pa.schema(
    [
        ("view", pa.int32()),  # 0 .. views - 1
        ("sha256", pa.string()),  # of the original's file
        ("label", pa.int64()),
        ("domain", pa.string()),
        ("split", pa.string()),
        ("side", pa.int32()),
        # uint8 (3, side, side), row by row. Against PNG a third larger, and ten times faster to write.
        ("pixels", pa.binary()),
    ]
)


def write_views(images: str | Path, params: Augmentation, destination: str | Path) -> dict[str, Any]:
    """Write K = `params.views` augmented views of every training image, whole or not at all.

    A view depends on its image, its number and the seed, not on which other images there are. It is
    made from the centre square of the image, of at most 256 pixels a side, and is as large.

    Args:
        images: Folder of the image table.
        params: The policy.
        destination: Folder for the shards, views.json, policy.json and sheet.png; replaced if it exists.

    Returns:
        What was written: `images`, `views` (of each), `rows`, `megabytes`, and `note` where nothing was.

    Raises:
        GraftError: there is no whole image table, or a parameter is out of range.
    """
    policy(params, Preprocessing(1, 1))  # refuses what is out of range before any work
    table = read_table(images)
    index = table.select(split="train")
    facts: dict[str, Any] = {"images": len(index), "views": params.views, "rows": len(index) * params.views}
    if not facts["rows"]:
        reason = "augmentation.views is 0" if len(index) else "there are no training images"
        facts["note"] = f"no views were written: {reason}"
    with whole_folder(destination) as folder:
        parts = _parts(table, index, params.views)
        rows = track(_rows(table, parts, params), "augmenting", total=facts["rows"], unit="views")
        size = _write_shards(folder, parts, rows, params.views)
        write_policy(params, folder)
        write_json(folder / "views.json", {"format": FORMAT, "shards": len(parts), **facts})
        draw_sheet(table, index, params, folder / "sheet.png")
    return facts | {"megabytes": round(size / 2**20, 1)}


def read_views(folder: str | Path) -> tuple[list[np.ndarray], pd.DataFrame]:
    """Read the views back.

    Returns:
        The pixels, uint8 (3, side, side) each, and a frame of view, sha256 (of the original), label,
        domain and split in the same order.

    Raises:
        GraftError: the folder holds no views, or not all of them.
    """
    shards = [(list(_arrays(table)), table.select(FRAME).to_pandas()) for table in _read_shards(Path(folder))]
    pixels, frames = zip(*shards, strict=True)
    return list(chain.from_iterable(pixels)), pd.concat(frames, ignore_index=True)


def load_view_pixels(folder: str | Path, preprocessing: Preprocessing) -> tuple[Tensor, pd.DataFrame]:
    """Read the views at a backbone's storage size, resized as its images are.

    Args:
        folder: Of `write_views`.
        preprocessing: Decides the size of the pixels, R.

    Returns:
        uint8 (M, 3, R, R), and the frame of `read_views`.

    Raises:
        GraftError: see `read_views`.
    """

    def resized(view: np.ndarray) -> np.ndarray:
        if view.shape[-1] == side:
            return view
        return resize_crop(Image.fromarray(view.transpose(1, 2, 0)), preprocessing)

    side, count = preprocessing.resize_size, _read_facts(Path(folder))["rows"]
    pixels = np.empty((count, 3, side, side), np.uint8)
    frames, start = [], 0
    with ThreadPoolExecutor(workers()) as pool:
        for table in _read_shards(Path(folder)):  # one at a time: the views may be larger than memory
            frames.append(table.select(FRAME).to_pandas())
            done = track(pool.map(resized, _arrays(table)), "resizing", total=len(table), unit="views")
            for position, view in enumerate(done, start):
                pixels[position] = view
            start += len(table)
    return torch.from_numpy(pixels), pd.concat(frames, ignore_index=True)


def _parts(table: ImageTable, index: pd.Index, views: int) -> list[pd.Index]:
    """The images of each shard; at least one shard, if an empty one."""
    ends = (3 * views * square_sides(table, index).astype(np.int64) ** 2).cumsum()
    starts = np.flatnonzero(np.diff((ends - 1) // SHARD_BYTES)) + 1
    return [index[start:stop] for start, stop in pairwise([0, *starts.tolist(), len(index)])]


def _rows(table: ImageTable, parts: list[pd.Index], params: Augmentation) -> Iterator[dict[str, Any]]:
    """One dict per view: shard by shard, in it batch by batch, in it view by view."""
    with ThreadPoolExecutor(workers()) as pool:
        for part in parts if params.views else []:
            for start in range(0, len(part), BATCH):
                batch = part[start : start + BATCH]
                facts: list[Any] = table.rows.loc[batch, list(FRAME[1:])].to_dict("records")
                squares = decode_squares(pool, table, batch)
                for view in range(params.views):
                    made = make_views(squares, [fact["sha256"] for fact in facts], view, params)
                    for fact, pixels in zip(facts, made, strict=True):
                        yield {**fact, "view": view, "side": pixels.shape[-1], "pixels": pixels.tobytes()}


def _write_shards(folder: Path, parts: list[pd.Index], rows: Iterator[dict[str, Any]], views: int) -> int:
    """Write each part's rows to its shard; the bytes written."""
    size = 0
    for number, part in enumerate(parts):
        shard = folder / f"data-{number:05d}-of-{len(parts):05d}.parquet"
        own = islice(rows, len(part) * views)
        with pq.ParquetWriter(shard, SCHEMA, compression="zstd", use_dictionary=list(FRAME)) as writer:
            while batch := list(islice(own, BATCH)):
                writer.write_table(pa.Table.from_pylist(batch, SCHEMA))
        size += shard.stat().st_size
    return size


def _read_shards(folder: Path) -> Iterator[pa.Table]:
    facts = _read_facts(folder)
    shards = sorted(folder.glob("data-*-of-*.parquet"))
    rows = 0
    try:
        for shard in shards:
            table = pq.ParquetFile(shard).read()
            rows += len(table)
            yield table
    except (OSError, pa.ArrowException) as error:
        raise _not_whole(folder, f"{shard.name} cannot be read ({error})") from error
    if (len(shards), rows) != (facts["shards"], facts["rows"]):
        expected = f"views.json says {facts['rows']} views in {facts['shards']} shards"
        raise _not_whole(folder, f"{rows} views in {len(shards)} shards, and {expected}")


def _arrays(table: pa.Table) -> Iterator[np.ndarray]:
    for pixels, side in zip(table["pixels"], table["side"].to_pylist(), strict=True):
        yield np.frombuffer(pixels.as_buffer(), np.uint8).reshape(3, side, side)


def _read_facts(folder: Path) -> dict[str, Any]:
    try:
        facts = read_json(folder / "views.json")
    except (OSError, ValueError) as error:
        raise _not_whole(folder, "there is no readable views.json") from error
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise _not_whole(folder, f"views.json is not of the format {FORMAT!r}")
    return facts


def _not_whole(folder: Path, reason: str) -> GraftError:
    return GraftError(f"{folder} does not hold whole views: {reason}", "run the augmentation step again")
