"""The image table: Parquet shards that hold every image with its label, split and flags.

Everything after data_validation reads only this. The Hugging Face `datasets` library reads the same
shards (`load_dataset("parquet", data_files=".../*.parquet")`), with `Image` and `ClassLabel` features.

A table is read where it lies, on this machine or on S3: its facts at once, images one row group at a time.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from graft.errors import GraftError
from graft.files import whole_folder, write_json
from graft.storage.addresses import is_address
from graft.storage.filesystems import filesystem, names

FORMAT = "graft image table 1"
SPLITS = ("train", "val", "test", "unlabeled")
SHARD_BYTES = 256 * 2**20
GROUP_BYTES = 16 * 2**20  # of images in one Parquet row group: what reading one image costs
GROUP_ROWS = 128
SCHEMA = pa.schema(
    [
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("label", pa.int64()),  # position in classes; -1: no label
        ("split", pa.string()),
        ("domain", pa.string()),  # "source" | "target", or "" where there is one domain
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("mode", pa.string()),  # Pillow's mode of the file, before conversion to RGB
        ("sha256", pa.string()),
        ("phash", pa.uint64()),
        ("duplicate_of", pa.string()),  # path of the equal image that is kept
        ("near_duplicate_of", pa.string()),  # path of the most important image that looks the same
        ("leak", pa.bool_()),  # equals, or looks the same as, a test image
    ]
)
DICTIONARY = ["split", "domain", "mode", "label", "width", "height", "leak"]


@dataclass(frozen=True)
class ImageTable:
    """A table on disk: its facts in memory, the encoded images read when asked for.

    Attributes:
        path: Folder with the shards and table.json, or its address on S3.
        classes: Names, sorted; a label is a position in them.
        domains: ("source", "target"), or ("",) where there is one.
        data_md5: DVC's md5 of the data folder the table was made from.
        rows: One row per image, all columns but the bytes, with `path`; index 0 .. N - 1.
    """

    path: Path | str
    classes: tuple[str, ...]
    domains: tuple[str, ...]
    data_md5: str
    rows: pd.DataFrame

    @property
    def target(self) -> str:
        """The domain whose test images decide: "target", or "" where there is one domain."""
        return "target" if "target" in self.domains else ""

    def select(self, *, split: str | Sequence[str] | None = None, domain: str | None = None) -> pd.Index:
        """Rows of the given splits and domain (None: all).

        Outside the test split, images that leak from it and second copies are left out.
        """
        chosen = (self.rows["split"] == "test") | ~(self.rows["leak"] | self.rows["duplicate_of"].notna())
        if split is not None:
            chosen &= self.rows["split"].isin([split] if isinstance(split, str) else list(split))
        if domain is not None:
            chosen &= self.rows["domain"] == domain
        return self.rows.index[chosen]

    @property
    def short_side(self) -> float:
        """Median length of the images' shorter side, pixels."""
        return float(self.rows[["width", "height"]].min(axis=1).median())

    def contents(self, index: pd.Index) -> list[bytes]:
        """Encoded image files, in the order of `index`; only the row groups they lie in are read."""
        found = [b""] * len(index)
        for positions, files in self.parts(index):
            for position, file in zip(positions.tolist(), files, strict=True):
                found[position] = file
        return found

    def parts(self, index: pd.Index) -> Iterator[tuple[np.ndarray, list[bytes]]]:
        """`contents` one row group at a time, as they lie in the table: positions in `index`, and files."""
        rows = np.asarray(index, dtype=np.int64)
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self.rows):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of a table of {len(self.rows)}")
        order = np.argsort(rows, kind="stable")
        wanted = rows[order]
        start = 0
        for shard in _shards(self.path):
            with shard() as file:
                for group in range(file.num_row_groups):
                    stop = start + file.metadata.row_group(group).num_rows
                    here = slice(*np.searchsorted(wanted, [start, stop]))
                    if here.start < here.stop:
                        images = file.read_row_group(group, columns=["image.bytes"])["image"].combine_chunks()
                        taken = images.field("bytes").take(pa.array(wanted[here] - start))
                        yield order[here], taken.to_pylist()
                    start = stop


def write_table(
    folder: str | Path, records: Iterable[dict[str, Any]], *, classes: Sequence[str], data_md5: str
) -> None:
    """Write an image table, whole or not at all; equal records give equal bytes.

    Args:
        folder: Where; replaced if it exists.
        records: One dict per image with the keys of `SCHEMA`; `image` is {"bytes", "path"}. Streamed.
        classes: Names, sorted.
        data_md5: `graft.files.folder_md5` of the data folder.
    """
    schema = SCHEMA.with_metadata({"huggingface": json.dumps({"info": {"features": _features(classes)}})})
    counts: Counter[tuple[str, str]] = Counter()
    with whole_folder(folder) as temporary:
        shards = _write_shards(temporary, _row_groups(records, schema, counts), schema)
        domains = sorted({domain for domain, _ in counts}) or [""]
        by_split = {d: {s: counts[d, s] for s in SPLITS if counts[d, s]} for d in domains}
        facts = {"format": FORMAT, "classes": list(classes), "domains": domains, "data_md5": data_md5}
        totals = {"counts": by_split, "rows": counts.total(), "shards": shards}
        write_json(temporary / "table.json", facts | totals)


def read_table(folder: str | Path) -> ImageTable:
    """Open an image table.

    Args:
        folder: On this machine, or s3://bucket/prefix.

    Raises:
        GraftError: the folder holds no table, or not a whole one.
    """
    facts = read_facts(folder)
    columns = [name for name in SCHEMA.names if name != "image"]
    try:
        shards = [shard(pre_buffer=True).read(["image.path", *columns]) for shard in _shards(folder)]
    except (OSError, pa.ArrowException) as error:
        raise _not_whole(folder, f"a shard cannot be read ({error})") from error
    table = pa.concat_tables(shards or [SCHEMA.empty_table()])
    if len(shards) != facts["shards"] or table.num_rows != facts["rows"]:
        expected = f"table.json says {facts['rows']} rows in {facts['shards']} shards"
        raise _not_whole(folder, f"{table.num_rows} rows in {len(shards)} shards, and {expected}")
    rows = table.select(columns).to_pandas()
    rows["path"] = table["image"].combine_chunks().field("path").to_pandas()
    place = str(folder) if is_address(str(folder)) else Path(folder)
    return ImageTable(place, tuple(facts["classes"]), tuple(facts["domains"]), facts["data_md5"], rows)


def _features(classes: Sequence[str]) -> dict[str, Any]:
    """The schema in the words of Hugging Face `datasets`."""
    known = {"image": {"_type": "Image"}, "label": {"names": list(classes), "_type": "ClassLabel"}}
    plain = {field.name: {"dtype": str(field.type), "_type": "Value"} for field in SCHEMA}
    return {**plain, **known}


def _row_groups(
    records: Iterable[dict[str, Any]], schema: pa.Schema, counts: Counter[tuple[str, str]]
) -> Iterator[tuple[pa.Table, int]]:
    """Tables of up to GROUP_ROWS rows or GROUP_BYTES bytes of images, with their bytes."""
    batch: list[dict[str, Any]] = []
    size = 0
    for record in records:
        counts[record["domain"], record["split"]] += 1
        batch.append(record)
        size += len(record["image"]["bytes"])
        if size >= GROUP_BYTES or len(batch) >= GROUP_ROWS:
            yield pa.Table.from_pylist(batch, schema), size
            batch, size = [], 0
    if batch:
        yield pa.Table.from_pylist(batch, schema), size


def _write_shards(folder: Path, groups: Iterator[tuple[pa.Table, int]], schema: pa.Schema) -> int:
    """Fill shards up to SHARD_BYTES; their names say how many there are, so they come last."""
    parts: list[Path] = []
    for first in groups:
        part = folder / f"part-{len(parts)}"
        parts.append(part)
        with pq.ParquetWriter(part, schema, use_dictionary=DICTIONARY) as writer:
            room = SHARD_BYTES
            for table, size in chain([first], groups):
                writer.write_table(table)
                room -= size
                if room < GROUP_BYTES:
                    break
    for number, part in enumerate(parts):
        part.rename(folder / f"data-{number:05d}-of-{len(parts):05d}.parquet")
    return len(parts)


def _shards(folder: str | Path) -> list[Callable[..., pq.ParquetFile]]:
    """What opens each shard, in order; with `pre_buffer`, columns side by side are one request on S3."""
    files, path = filesystem(folder)

    def opened(name: str, *, pre_buffer: bool = False) -> pq.ParquetFile:
        return pq.ParquetFile(files.open_input_file(f"{path}/{name}"), pre_buffer=pre_buffer)

    found = [name for name in names(files, path) if fnmatch(name, "data-*-of-*.parquet")]
    return [partial(opened, name) for name in found]


def read_facts(folder: str | Path) -> dict[str, Any]:
    """What table.json says: classes, domains, data_md5, counts by domain and split, rows, shards.

    Raises:
        GraftError: see `read_table`.
    """
    files, path = filesystem(folder)
    try:
        with files.open_input_stream(f"{path}/table.json") as source:
            facts = json.loads(source.readall())
    except (OSError, ValueError) as error:
        raise _not_whole(folder, "there is no readable table.json") from error
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise _not_whole(folder, f"table.json is not of the format {FORMAT!r}")
    return facts


def _not_whole(folder: str | Path, reason: str) -> GraftError:
    return GraftError(
        f"{folder} is not a whole image table: {reason}", "run data_validation again to make it"
    )
