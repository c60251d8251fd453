"""Parquet as Hugging Face writes it: a column of images {bytes, path} and a column of labels."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from graft.errors import GraftError
from graft.images.importing.layout import (
    DOMAINS,
    IMAGE_SUFFIXES,
    SPLIT_CALLED,
    UNLABELED,
    Incoming,
    class_folders,
)

if TYPE_CHECKING:
    import pyarrow
    import pyarrow.parquet

_BATCH = 64  # rows in memory at once
_MAGIC = {
    b"\xff\xd8\xff": ".jpg",
    b"\x89PNG": ".png",
    b"GIF8": ".gif",
    b"BM": ".bmp",
    b"RIFF": ".webp",
    b"II*\x00": ".tif",
    b"MM\x00*": ".tif",
}
_RESERVED = (*SPLIT_CALLED, *DOMAINS)


@dataclass(frozen=True)
class Columns:
    """Where a shard keeps its images and labels; names: the classes, where labels are numbers."""

    image: str
    label: str | None
    names: tuple[str, ...] | None


def is_one(path: Path) -> bool:
    """Whether the path is a Parquet file (by its content), or a folder with *.parquet in it."""
    if path.is_dir():
        return bool(_shards(path))
    with path.open("rb") as stream:
        return stream.read(4) == b"PAR1"


def read(path: Path) -> Incoming:
    """The images, streamed; their split follows from the shard's name (train-00000-of-00001.parquet).

    Images without a label (null or -1) go to unlabeled/. Without a split in the names there is none.

    Raises:
        GraftError: a shard is damaged or lacks a column, a label is out of range, an image is only
            named and not embedded, or some shards tell their split and others do not.
    """
    shards = _shards(path)
    splits = [_split(shard) for shard in shards]
    if "" in splits and len(set(splits)) > 1:
        odd = shards[splits.index("")].name
        raise GraftError(
            f"{path}: {odd} names no split but other shards do",
            "call every shard after train, validation, test or unlabeled, or take this one away",
        )
    rows = 0
    for shard in shards:
        with _opened(shard) as file:
            _columns(file.schema_arrow, shard)  # refused before anything is written
            rows += file.metadata.num_rows
    return Incoming(_images(shards, splits), rows)


def _shards(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    found = (file.relative_to(path) for file in path.rglob("*.parquet"))
    return sorted(path / file for file in found if not any(part.startswith(".") for part in file.parts))


def _split(shard: Path) -> str:
    """From "train-00000-of-00004.parquet", "train.parquet" or "train/0000.parquet"; else ""."""
    for name in (re.split(r"[-.]", shard.name)[0], shard.parent.name):
        if name.lower() in SPLIT_CALLED:
            return SPLIT_CALLED[name.lower()]
    return ""


def _images(shards: Sequence[Path], splits: Sequence[str]) -> Iterator[tuple[PurePosixPath, bytes]]:
    taken: dict[str, str] = {}
    for number, (shard, split) in enumerate(zip(shards, splits, strict=True)):
        for row, (image, label) in enumerate(_rows(shard)):
            where = f"{shard}, row {row}"
            content = (image or {}).get("bytes")
            if content is None:
                raise GraftError(
                    f"{where}: the image itself is not in the file",
                    "write the shards with the images' bytes embedded, as Dataset.push_to_hub does",
                )
            name = f"{number:05d}-{row:07d}{_suffix(content, image.get('path'))}"
            yield PurePosixPath(*_folder(split, label, taken, where), name), content


def _folder(split: str, label: str | None, taken: dict[str, str], where: str) -> tuple[str, ...]:
    if split == UNLABELED or label is None:
        return (UNLABELED,)
    folder = class_folders([label], where)[0]
    if taken.setdefault(folder, label) != label:
        raise GraftError(
            f"{where}: the classes {taken[folder]!r} and {label!r} would share the folder {folder}",
            "rename one of them",
        )
    if not split and folder.lower() in _RESERVED:
        raise GraftError(
            f"{where}: the class {label!r} is called like a split or a domain",
            "rename it, or give the shards a split in their names, as in train-00000-of-00001.parquet",
        )
    return (split, folder) if split else (folder,)


def _rows(shard: Path) -> Iterator[tuple[Any, str | None]]:
    """The image struct and the class name (None: no label) of each row."""
    with _opened(shard) as file:
        columns = _columns(file.schema_arrow, shard)
        wanted = [columns.image, *([columns.label] if columns.label else [])]
        for batch in file.iter_batches(_BATCH, columns=wanted):
            images = batch.column(columns.image).to_pylist()
            labels = batch.column(columns.label).to_pylist() if columns.label else [None] * len(images)
            for image, label in zip(images, labels, strict=True):
                yield image, _class_name(label, columns.names, shard)


def _class_name(label: Any, names: Sequence[str] | None, shard: Path) -> str | None:
    if label is None or label == -1:
        return None
    if isinstance(label, str) or names is None:
        return str(label)
    if not 0 <= label < len(names):
        raise GraftError(
            f"{shard}: the label {label} is not one of the {len(names)} classes of its schema",
            "correct the label, or the ClassLabel names in the schema's metadata",
        )
    return names[label]


def _columns(schema: pyarrow.Schema, shard: Path) -> Columns:
    """Which columns hold images and labels: by Hugging Face's metadata, else by their usual names."""
    features = _features(schema)
    of_type = {kind: [n for n in schema.names if features.get(n) == kind] for kind in ("Image", "ClassLabel")}
    structs = [n for n in (*of_type["Image"], "image", "img") if n in schema.names and _is_image(schema, n)]
    labels = [n for n in ("label", "labels", *of_type["ClassLabel"]) if n in schema.names]
    if not structs:
        raise GraftError(
            f"{shard} has no column of images {{bytes, path}}: it has {', '.join(schema.names)}",
            "write it with Hugging Face datasets (feature Image), or import the images as a folder",
        )
    if not labels and _split(shard) != UNLABELED:
        raise GraftError(
            f"{shard} has no column of labels: it has {', '.join(schema.names)}",
            "call the column label, or the shard unlabeled-00000-of-00001.parquet",
        )
    label = labels[0] if labels else None
    _refuse_label_type(schema, label, shard)
    return Columns(structs[0], label, _names(schema, label))


def _is_image(schema: pyarrow.Schema, name: str) -> bool:
    import pyarrow.types

    kind = schema.field(name).type
    return bool(pyarrow.types.is_struct(kind)) and kind.get_field_index("bytes") >= 0


def _refuse_label_type(schema: pyarrow.Schema, label: str | None, shard: Path) -> None:
    from pyarrow import types

    if label is None:
        return
    kind = schema.field(label).type
    if not (types.is_integer(kind) or types.is_string(kind) or types.is_large_string(kind)):
        raise GraftError(
            f"{shard}: the column {label} is of type {kind}, not one class per image",
            "make it integers (ClassLabel) or strings",
        )


def _described(schema: pyarrow.Schema) -> dict[str, Any]:
    """Hugging Face's own account of the columns, from the schema's metadata; empty without one."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    return features if isinstance(features, dict) else {}


def _features(schema: pyarrow.Schema) -> dict[str, str]:
    described = _described(schema)
    return {name: value.get("_type", "") for name, value in described.items() if isinstance(value, dict)}


def _names(schema: pyarrow.Schema, label: str | None) -> tuple[str, ...] | None:
    feature = _described(schema).get(label or "")
    names = feature.get("names") if isinstance(feature, dict) else None
    return tuple(map(str, names)) if isinstance(names, list) else None


def _suffix(content: bytes, path: str | None) -> str:
    """By the content, else by the name it had; data_validation judges what is neither."""
    by_content = next((suffix for magic, suffix in _MAGIC.items() if content.startswith(magic)), "")
    named = PurePosixPath(path or "").suffix.lower()
    return by_content or (named if named in IMAGE_SUFFIXES else ".bin")


@contextmanager
def _opened(shard: Path) -> Iterator[pyarrow.parquet.ParquetFile]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(shard) as file:
            yield file
    except (pyarrow.ArrowException, OSError) as error:
        raise GraftError(
            f"{shard} is damaged or no Parquet: {error}", "download or write this shard again"
        ) from error
