"""Rows of numbers kept under a key, such as an image's pixels or features under its SHA-256.

A store is a folder or a prefix on S3. Its shards are Parquet files of some rows with their keys, each
written whole under a name of its own, so that any number of processes may write and read at once; a key
that is kept twice costs room and no more. Each row has a checksum over itself and its key (Parquet's own
ones leave page headers out): a damaged shard is removed, and its rows are missing. What was not used for
longest makes room. All of it may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import threading
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from graft.errors import GraftError
from graft.progress import say
from graft.storage.shards import Shard, Shards, shards_at

SHARD_BYTES = 64 * 2**20  # of rows in one shard
GROUP_BYTES = 8 * 2**20  # of rows in one Parquet row group: what reading one row costs
READERS = 4  # shards read at once, each a row group at a time
_DAMAGE = (
    OSError,
    ValueError,
    LookupError,
    OverflowError,
    MemoryError,
    pa.ArrowException,
)  # as Arrow tells it


def fetch_rows(store: str, group: str, keys: Sequence[str], out: np.ndarray) -> np.ndarray:
    """Fill out[i] with the row kept under (group, keys[i]) wherever there is one.

    Rows of another dtype or shape than those of `out` count as rows of another group. A shard of which a
    row is taken counts as used now.

    Args:
        store: A folder, which need not exist, or s3://bucket/prefix.
        group: What the rows of all keys have in common, such as the network that made them.
        keys: N texts; one may occur twice.
        out: (N, ...), in memory or mapped; what is not found stays as it is.

    Returns:
        bool (N,): which were filled.

    Raises:
        GraftError: the bucket cannot be read.
    """
    if len(keys) != len(out):
        raise ValueError(f"{len(keys)} keys for {len(out)} rows")
    wanted = _Wanted(keys, out)
    if len(keys):
        place = shards_at(store)
        young = sorted(place.listed(_name(group, out)), key=lambda shard: shard.used, reverse=True)
        with ThreadPoolExecutor(READERS) as pool:
            list(pool.map(lambda shard: _take(place, shard, wanted), young))
    return wanted.filled


def add_rows(store: str, group: str, keys: Sequence[str], rows: np.ndarray, *, limit: int) -> None:
    """Keep rows[i] under (group, keys[i]); then drop the least recently used shards beyond `limit` bytes.

    A store that cannot be written to (a full disk, a bucket that may only be read) is said and no error:
    what is not kept is made again.

    Args:
        store, group: As of `fetch_rows`.
        keys: N texts.
        rows: (N, ...), of any dtype whose items are plain bytes.
        limit: Of the whole store, all groups together. A shard that is larger than this is not kept.
    """
    if len(keys) != len(rows):
        raise ValueError(f"{len(keys)} keys for {len(rows)} rows")
    step = max(1, SHARD_BYTES // max(1, rows[:1].nbytes))
    try:
        place = shards_at(store)
        for start in range(0, len(rows), step):
            content = _encoded(keys[start : start + step], rows[start : start + step])
            if content.size <= limit:
                place.put(_name(group, rows), content)
        _make_room(place, limit)
    except (GraftError, OSError) as error:
        say(f"{store} keeps nothing more: {error.problem if isinstance(error, GraftError) else error}")


class _Wanted:
    """The rows that are still to be found; several threads fill in what they find."""

    def __init__(self, keys: Sequence[str], out: np.ndarray) -> None:
        self.out, self.filled = out, np.zeros(len(keys), bool)
        self._lock = threading.Lock()
        self._positions: dict[str, list[int]] = {}
        for position, key in enumerate(keys):
            self._positions.setdefault(key, []).append(position)

    def __len__(self) -> int:
        return len(self._positions)

    def __contains__(self, key: str) -> bool:
        return key in self._positions

    def fill(self, key: str, row: np.ndarray) -> None:
        with self._lock:  # two shards may hold the key: the row comes from one of them, whole
            positions = self._positions.pop(key, [])
        for position in positions:
            self.out[position] = row
            self.filled[position] = True


def _take(place: Shards, shard: Shard, wanted: _Wanted) -> None:
    """Fill in what a shard holds. What is damaged twice was not hurt on the way, and is removed."""
    for _ in range(2):
        try:
            if len(wanted) and _copied(place, shard, wanted):
                place.touch(shard)
            return
        except FileNotFoundError:  # another process made room
            return
        except _DAMAGE:
            continue
    place.remove(shard)


def _copied(place: Shards, shard: Shard, wanted: _Wanted) -> bool:
    """Whether the shard held any row that was wanted."""
    taken = False
    with place.open(shard) as source:
        file = pq.ParquetFile(source)
        keys = file.read(["key"], use_threads=False)["key"].to_pylist()
        start = 0
        for group in range(file.num_row_groups):
            stop = start + file.metadata.row_group(group).num_rows
            here = [position for position in range(start, stop) if keys[position] in wanted]
            if here:
                rows, checks = _rows_of(file, group, wanted.out)
                for position in here:
                    key, row = keys[position], rows[position - start]
                    if _check(key, row) != checks[position - start]:
                        raise ValueError("a row or its key is not what was written")
                    wanted.fill(key, row)
                taken = True
            start = stop
    return taken


def _rows_of(file: pq.ParquetFile, group: int, out: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """A row group's rows and their checksums."""
    table = file.read_row_group(group, ["row", "check"], use_threads=False)
    column, checks = table["row"].combine_chunks(), table["check"].to_pylist()
    width = out[0].nbytes
    if column.type != pa.binary(width) or column.null_count:
        raise ValueError(f"rows of {column.type}, not of {width} bytes")
    content = np.frombuffer(column.buffers()[1], np.uint8)[column.offset * width :][: len(column) * width]
    return content.view(out.dtype).reshape(len(column), *out.shape[1:]), checks


def _check(key: str, row: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(row).view(np.uint8).data, zlib.crc32(key.encode()))


def _encoded(keys: Sequence[str], rows: np.ndarray) -> pa.Buffer:
    plain = np.ascontiguousarray(rows).reshape(len(rows), -1).view(np.uint8)
    width = plain.shape[1]
    column = pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(plain), [None, pa.py_buffer(plain)])
    checks = [_check(key, row) for key, row in zip(keys, plain, strict=True)]
    sink = pa.BufferOutputStream()
    pq.write_table(
        pa.table({"key": pa.array(keys, pa.string()), "check": pa.array(checks, pa.uint32()), "row": column}),
        sink,
        row_group_size=max(1, GROUP_BYTES // width),
        compression="none",
        use_dictionary=False,
        write_statistics=False,  # they would hold whole rows
        store_schema=False,
    )
    return sink.getvalue()


def _make_room(place: Shards, limit: int) -> None:
    kept = 0
    for shard in sorted(place.listed(), key=lambda shard: shard.used, reverse=True):
        kept += shard.size
        if kept > limit:
            place.remove(shard)


def _name(group: str, rows: np.ndarray) -> str:
    """The folder of a group's shards."""
    parts = json.dumps([group, rows.dtype.str, rows.shape[1:]])
    return hashlib.sha256(parts.encode()).hexdigest()[:32]
