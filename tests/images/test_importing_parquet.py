"""Parquet as Hugging Face writes it: classes from its metadata, splits from its file names."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from graft.errors import GraftError
from graft.images.importing import import_data

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
PNG = b"\x89PNG\r\n"
FEATURES = {
    "image": {"_type": "Image"},
    "label": {"names": ["cat", "T-shirt/top"], "_type": "ClassLabel"},
}


def shard(
    path: Path,
    labels: Sequence[Any],
    *,
    features: Mapping[str, Any] | None = FEATURES,
    columns: tuple[str, str] = ("image", "label"),
    kind: pa.DataType | None = None,
    images: Sequence[Any] | None = None,
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = images or [{"bytes": PNG + bytes([i % 256]), "path": f"{i}.png"} for i in range(len(labels))]
    table = pa.table(
        [pa.array(images, IMAGE), pa.array(labels, kind or (pa.string() if "x" in labels else pa.int64()))],
        names=list(columns),
    )
    if features is not None:
        about = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": about})
    pq.write_table(table, path, row_group_size=50)
    return path


def test_shards_of_splits(tmp_path: Path) -> None:
    hub = tmp_path / "hub"
    shard(hub / "data/train-00000-of-00002.parquet", [0, 1] * 100)
    shard(hub / "data/train-00001-of-00002-0a1b2c.parquet", [0, 1, -1])
    shard(hub / "data/validation-00000-of-00001.parquet", [1])
    shard(hub / "data/test-00000-of-00001.parquet", [0, 0])
    (hub / "README.md").write_text("a card")
    summary = import_data(str(hub), tmp_path / "data")
    assert summary["counts"] == {
        "": {
            "train": {"cat": 101, "T-shirt-top": 101},
            "val": {"T-shirt-top": 1},
            "test": {"cat": 2},
            "unlabeled": {"": 1},
        }
    }
    files = sorted((tmp_path / "data/train/cat").iterdir())
    assert len(files) == 101
    assert files[0].read_bytes().startswith(PNG)
    assert {file.suffix for file in files} == {".png"}


def test_the_order_of_rows_keeps_image_and_label_together(tmp_path: Path) -> None:
    images = [{"bytes": bytes([i]), "path": None} for i in range(200)]
    shard(tmp_path / "x.parquet", [i % 2 for i in range(200)], images=images)
    import_data(str(tmp_path / "x.parquet"), tmp_path / "data")
    values = {file.read_bytes()[0] % 2 for file in (tmp_path / "data/cat").iterdir()}
    assert values == {0}


def test_one_file_without_splits(tmp_path: Path) -> None:
    path = shard(tmp_path / "data-00000-of-00001.parquet", [0, 1, 1])
    counts = import_data(str(path), tmp_path / "data")["counts"]
    assert counts == {"": {"": {"T-shirt-top": 2, "cat": 1}}}


def test_splits_from_folders_and_labels_as_words(tmp_path: Path) -> None:
    hub = tmp_path / "hub"
    shard(hub / "default/train/0000.parquet", ["x", "y"], features=None, columns=("img", "labels"))
    shard(hub / "default/test/0000.parquet", ["x"], features=None, columns=("img", "labels"))
    counts = import_data(str(hub), tmp_path / "data")["counts"]
    assert counts == {"": {"train": {"x": 1, "y": 1}, "test": {"x": 1}}}


def test_the_metadata_names_the_columns(tmp_path: Path) -> None:
    features = {"photo": {"_type": "Image"}, "animal": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    path = shard(tmp_path / "x.parquet", [1, 0], features=features, columns=("photo", "animal"))
    assert import_data(str(path), tmp_path / "data")["counts"] == {"": {"": {"cat": 1, "dog": 1}}}


def test_bad_images_are_kept_for_validation_to_judge(tmp_path: Path) -> None:
    images = [{"bytes": b"", "path": "a.jpg"}, {"bytes": b"text", "path": "../../b.txt"}]
    path = shard(tmp_path / "x.parquet", [0, 1], images=images)
    import_data(str(path), tmp_path / "data")
    files = {f.relative_to(tmp_path / "data").as_posix() for f in (tmp_path / "data").rglob("*.*")}
    assert files == {"cat/00000-0000000.jpg", "T-shirt-top/00000-0000001.bin"}


def refused(tmp_path: Path, source: Path, message: str) -> None:
    with pytest.raises(GraftError, match=f"(?s){message}"):
        import_data(str(source), tmp_path / "out/data")
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_what_is_refused_names_its_fix(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    refused(tmp_path, shard(path, [0, 2]), "label 2 is not one of the 2 classes.*fix: correct the label")
    refused(
        tmp_path, shard(path, [0], images=[{"bytes": None, "path": "a"}]), "row 0.*not in the file.*embedded"
    )
    refused(
        tmp_path, shard(path, [0], columns=("image", "caption")), "no column of labels.*call the column label"
    )
    refused(tmp_path, shard(path, [0], columns=("picture", "label")), "no column of images.*feature Image")
    refused(tmp_path, shard(path, [0.5], kind=pa.float64()), "of type double.*ClassLabel")
    words: dict[str, Any] = {"features": None, "kind": pa.string()}
    refused(tmp_path, shard(path, ["train", "b"], **words), "called like a split")
    refused(tmp_path, shard(path, ["a/b", "a:b"], **words), "would share the folder a-b")
    refused(tmp_path, shard(path, ["..", "b"], **words), "names no folder")


def test_mixed_and_damaged_shards_are_refused(tmp_path: Path) -> None:
    hub = tmp_path / "hub"
    shard(hub / "train-00000-of-00001.parquet", [0, 1])
    odd = shard(hub / "extra.parquet", [0, 1])
    refused(tmp_path, hub, "extra.parquet names no split but other shards do.*fix: call every shard")
    odd.unlink()
    whole = shard(hub / "test.parquet", [0, 1] * 50)
    whole.write_bytes(whole.read_bytes()[:-40])
    refused(tmp_path, hub, "test.parquet is damaged.*fix: download or write this shard again")
