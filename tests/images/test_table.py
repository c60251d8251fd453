"""The image table on disk: whole or refused, ordered, deterministic, readable by others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from graft.errors import GraftError
from graft.images import table
from graft.images.table import SCHEMA, ImageTable, read_table, write_table


def record(number: int, **changes: Any) -> dict[str, Any]:
    content = f"image {number}".encode() * 10
    row = {
        "image": {"bytes": content, "path": f"train/ant/{number}.png"},
        "label": 0,
        "split": "train",
        "domain": "",
        "width": 8,
        "height": 9,
        "mode": "RGB",
        "sha256": hashlib.sha256(content).hexdigest(),
        "phash": 2**64 - 1 - number,
        "duplicate_of": None,
        "near_duplicate_of": None,
        "leak": False,
    }
    return row | changes


def written(folder: Path, records: list[dict[str, Any]]) -> ImageTable:
    write_table(folder, records, classes=["ant", "bee"], data_md5="0" * 32)
    return read_table(folder)


@pytest.fixture
def domains(tmp_path: Path) -> ImageTable:
    changes: list[dict[str, Any]] = [
        {"domain": "source"},
        {"domain": "source", "split": "val"},
        {"domain": "target"},
        {"domain": "target", "leak": True},
        {"domain": "target", "duplicate_of": "train/ant/2.png"},
        {"domain": "target", "split": "unlabeled", "label": -1},
        {"domain": "target", "split": "test"},
        {"domain": "target", "split": "test", "duplicate_of": "train/ant/6.png"},
    ]
    return written(tmp_path / "images", [record(n, **change) for n, change in enumerate(changes)])


def test_what_is_written_is_read(tmp_path: Path) -> None:
    images = written(tmp_path / "images", [record(0), record(1, label=-1, split="unlabeled")])
    assert images.classes == ("ant", "bee")
    assert (images.domains, images.target, images.data_md5) == (("",), "", "0" * 32)
    assert images.rows["path"].tolist() == ["train/ant/0.png", "train/ant/1.png"]
    assert images.rows["label"].tolist() == [0, -1]
    assert images.rows["phash"].tolist() == [2**64 - 1, 2**64 - 2]
    assert set(images.rows) == {*SCHEMA.names, "path"} - {"image"}


def test_selecting_leaves_leaks_and_second_copies_out_of_training(domains: ImageTable) -> None:
    assert domains.target == "target"
    assert list(domains.select(split="train")) == [0, 2]
    assert list(domains.select(split=["train", "val"], domain="source")) == [0, 1]
    assert list(domains.select(domain="target")) == [2, 5, 6, 7]
    assert list(domains.select(split="test")) == [6, 7]


def test_counts_are_by_domain_and_split(domains: ImageTable) -> None:
    facts = json.loads((domains.path / "table.json").read_text())
    assert facts["rows"] == 8
    assert facts["counts"] == {
        "source": {"train": 1, "val": 1},
        "target": {"train": 3, "test": 2, "unlabeled": 1},
    }


def test_contents_come_in_the_order_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "GROUP_ROWS", 3)
    monkeypatch.setattr(table, "GROUP_BYTES", 500)
    monkeypatch.setattr(table, "SHARD_BYTES", 1000)
    records = [record(n) for n in range(23)]
    images = written(tmp_path / "images", records)
    shards = sorted(file.name for file in images.path.glob("*.parquet"))
    assert len(shards) > 2
    assert shards[0] == f"data-00000-of-{len(shards):05d}.parquet"
    asked = [22, 0, 7, 7, 13]
    assert images.contents(pd.Index(asked)) == [records[n]["image"]["bytes"] for n in asked]
    assert images.contents(pd.Index([])) == []
    with pytest.raises(IndexError):
        images.contents(pd.Index([23]))


def test_equal_records_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("first", "second"):
        written(tmp_path / name, [record(n) for n in range(300)])
    for file in (tmp_path / "first").iterdir():
        assert file.read_bytes() == (tmp_path / "second" / file.name).read_bytes()


def test_the_schema_speaks_hugging_face(tmp_path: Path) -> None:
    images = written(tmp_path / "images", [record(0)])
    schema = pq.read_schema(next(images.path.glob("*.parquet")))
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert list(features) == schema.names
    assert features["image"] == {"_type": "Image"}
    assert features["label"] == {"_type": "ClassLabel", "names": ["ant", "bee"]}
    assert features["phash"] == {"_type": "Value", "dtype": "uint64"}
    assert features["leak"] == {"_type": "Value", "dtype": "bool"}


def test_a_failure_while_writing_leaves_the_old_table(tmp_path: Path) -> None:
    def dying() -> Iterator[dict[str, Any]]:
        yield record(1)
        raise KeyboardInterrupt

    written(tmp_path / "images", [record(0)])
    with pytest.raises(KeyboardInterrupt):
        write_table(tmp_path / "images", dying(), classes=["ant"], data_md5="")
    assert read_table(tmp_path / "images").rows["path"].tolist() == ["train/ant/0.png"]
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def remove_facts(folder: Path) -> None:
    (folder / "table.json").unlink()


def garble_facts(folder: Path) -> None:
    (folder / "table.json").write_text('{"format": "some other"}')


def remove_shard(folder: Path) -> None:
    next(folder.glob("*.parquet")).unlink()


def truncate_shard(folder: Path) -> None:
    shard = next(folder.glob("*.parquet"))
    shard.write_bytes(shard.read_bytes()[:-100])


@pytest.mark.parametrize("harm", [remove_facts, garble_facts, remove_shard, truncate_shard])
def test_half_a_table_is_refused(tmp_path: Path, harm: Any) -> None:
    written(tmp_path / "images", [record(0)])
    harm(tmp_path / "images")
    with pytest.raises(GraftError, match="not a whole image table") as caught:
        read_table(tmp_path / "images")
    assert "run data_validation again" in caught.value.fix
