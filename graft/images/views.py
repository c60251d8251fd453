"""Augmented views of the training images, as Parquet shards, with the policy and a picture of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from graft.errors import GraftError
from graft.files import read_json, whole_folder, write_json
from graft.images.augmentation import policy, write_policy
from graft.images.decoding import resize_crop, workers
from graft.images.memory import room_for
from graft.images.preprocessing import Preprocessing
from graft.images.table import ImageTable, read_table
from graft.images.view_making import decode_squares, make_views, square_sides
from graft.images.view_sheet import draw_sheet
from graft.params import Augmentation
from graft.progress import track

FORMAT = "graft views 2"
SHARD_BYTES = 256 * 2**20  # of pixels, before compression
BATCH = 128  # images decoded and augmented at once
ROWS = 32  # of one Parquet row group: what reading one view costs
FRAME = ("view", "sha256", "label", "domain", "split")
SCHEMA = pa.schema(
    [
        ("view", pa.int32()),  # 0 .. views - 1
        ("sha256", pa.string()),  # of the original's file
        ("label", pa.int64()),
        ("domain", pa.string()),
        ("split", pa.string()),
        ("digest", pa.string()),  # SHA-256 of the pixels' bytes, in hexadecimal
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


def read_view_rows(folder: str | Path) -> pd.DataFrame:
    """The frame of `read_views`, and the column `digest`: SHA-256 of each view's pixels. None is read.

    Raises:
        GraftError: see `read_views`.
    """
    shards = _read_shards(Path(folder), [*FRAME, "digest"])
    return pd.concat([table.to_pandas() for table in shards], ignore_index=True)


def load_view_pixels(
    folder: str | Path, preprocessing: Preprocessing, wanted: np.ndarray | None = None
) -> tuple[Tensor, pd.DataFrame]:
    """Read views at a backbone's storage size, resized as its images are.

    Args:
        folder: Of `write_views`.
        preprocessing: Decides the size of the pixels, R.
        wanted: Their positions in the frame of `read_views`, int64 (M,), growing; by default all.

    Returns:
        uint8 (M, 3, R, R), and the M rows of that frame.

    Raises:
        GraftError: see `read_views`.
    """

    def resized(view: np.ndarray) -> np.ndarray:
        if view.shape[-1] == side:
            return view
        return resize_crop(view.transpose(1, 2, 0), preprocessing)

    side, frame = preprocessing.resize_size, read_view_rows(folder)[list(FRAME)]
    chosen = np.arange(len(frame)) if wanted is None else wanted
    pixels = room_for((len(chosen), 3, side, side), f"the pixels of {len(chosen)} views")
    with ThreadPoolExecutor(workers()) as pool:
        groups = _read_groups(Path(folder), chosen)  # one at a time: the views may be larger than memory
        done = chain.from_iterable(pool.map(resized, _arrays(table)) for table in groups)
        for position, view in enumerate(track(done, "resizing", total=len(chosen), unit="views")):
            pixels[position] = view
    return torch.from_numpy(pixels), frame.iloc[chosen].reset_index(drop=True)


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
                        content = pixels.tobytes()
                        own = {"view": view, "side": pixels.shape[-1], "pixels": content}
                        yield {**fact, **own, "digest": hashlib.sha256(content).hexdigest()}


def _write_shards(folder: Path, parts: list[pd.Index], rows: Iterator[dict[str, Any]], views: int) -> int:
    """Write each part's rows to its shard; the bytes written."""
    size = 0
    for number, part in enumerate(parts):
        shard = folder / f"data-{number:05d}-of-{len(parts):05d}.parquet"
        own = islice(rows, len(part) * views)
        writer = pq.ParquetWriter(shard, SCHEMA, compression="zstd", use_dictionary=list(FRAME))
        with writer, ThreadPoolExecutor(1) as saver:
            saved: Future[None] | None = None
            while batch := list(islice(own, BATCH)):
                table = pa.Table.from_pylist(batch, SCHEMA)
                if saved:
                    saved.result()
                # While it is compressed, the next ones are made.
                saved = saver.submit(writer.write_table, table, row_group_size=ROWS)
            if saved:
                saved.result()
        size += shard.stat().st_size
    return size


def _read_shards(folder: Path, columns: list[str] | None = None) -> Iterator[pa.Table]:
    facts = _read_facts(folder)
    shards = sorted(folder.glob("data-*-of-*.parquet"))
    rows = 0
    try:
        for shard in shards:
            table = pq.ParquetFile(shard).read(columns)
            rows += len(table)
            yield table
    except (OSError, pa.ArrowException) as error:
        raise _not_whole(folder, f"{shard.name} cannot be read ({error})") from error
    if (len(shards), rows) != (facts["shards"], facts["rows"]):
        expected = f"views.json says {facts['rows']} views in {facts['shards']} shards"
        raise _not_whole(folder, f"{rows} views in {len(shards)} shards, and {expected}")


def _read_groups(folder: Path, chosen: np.ndarray) -> Iterator[pa.Table]:
    """The chosen rows, row group by row group; the others are not read."""
    start = 0
    try:
        for shard in sorted(folder.glob("data-*-of-*.parquet")):
            with pq.ParquetFile(shard) as file:
                for group in range(file.num_row_groups):
                    stop = start + file.metadata.row_group(group).num_rows
                    here = chosen[np.searchsorted(chosen, start) : np.searchsorted(chosen, stop)]
                    if len(here):
                        yield file.read_row_group(group, ["side", "pixels"]).take(here - start)
                    start = stop
    except (OSError, pa.ArrowException) as error:
        raise _not_whole(folder, f"{shard.name} cannot be read ({error})") from error


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
