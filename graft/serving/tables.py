"""Predictions as CSV or Parquet, written as they come."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO

from graft.errors import GraftError
from graft.files import whole_file
from graft.serving.predicting import Prediction

COLUMNS = ("path", "label", "probability", "top", "error")
Write = Callable[[Sequence[Prediction]], None]


def table(path: Path | None, stream: IO[str]) -> AbstractContextManager[Write]:
    """A table of predictions, open for writing; the function it gives takes the next rows.

    Args:
        path: A file .csv or .parquet, which is whole or not there at all; None for CSV to `stream`.
        stream: Where the CSV goes without a path.

    Raises:
        GraftError: the path is a folder, or has another suffix.
    """
    if path is None:
        return _csv(stream)
    if path.suffix.lower() not in (".csv", ".parquet") or path.is_dir():
        raise GraftError(f"-o {path} names neither CSV nor Parquet", "name a file .csv or .parquet")
    if path.suffix.lower() == ".parquet":
        return _parquet(path)
    return _csv_file(path)


@contextmanager
def _csv(stream: IO[str]) -> Iterator[Write]:
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)

    def write(rows: Sequence[Prediction]) -> None:
        writer.writerows(_values(row) for row in rows)
        stream.flush()

    yield write


@contextmanager
def _csv_file(path: Path) -> Iterator[Write]:
    with (
        whole_file(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as stream,
        _csv(stream) as write,
    ):
        yield write


@contextmanager
def _parquet(path: Path) -> Iterator[Write]:
    import pyarrow as pa
    from pyarrow import parquet

    kinds = {"probability": pa.float64()}
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in COLUMNS])
    with whole_file(path) as temporary, parquet.ParquetWriter(temporary, schema) as writer:

        def write(rows: Sequence[Prediction]) -> None:
            columns = zip(*(_values(row) for row in rows), strict=True)
            writer.write_table(pa.table(dict(zip(COLUMNS, map(list, columns), strict=True)), schema=schema))

        yield write


def _values(row: Prediction) -> tuple[str, str | None, float | None, str | None, str | None]:
    # A file's name may be no UTF-8, which neither CSV nor Parquet can hold.
    path = os.fsencode(row.path).decode("utf-8", "replace")
    return (path, row.label, row.probability, row.top, row.error)
