"""Rows kept under keys: found bit for bit or missing, whoever else writes, whatever was damaged."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from graft.errors import GraftError
from graft.storage import rows as rows_module
from graft.storage.rows import add_rows, fetch_rows
from graft.storage.shards import OnDisk, OnS3
from tests.storage.proxy import HARM, Proxy

PLENTY = 2**30
quick = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
dtypes = st.sampled_from([np.uint8, np.int64, np.float16, np.float32, np.float64, np.bool_])
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


def pattern(keys: list[str], width: int = 5) -> np.ndarray:
    """Rows that tell their key."""
    return np.stack([np.frombuffer(key.ljust(width).encode()[:width], np.uint8) for key in keys])


def found(store: Path | str, keys: list[str], *, group: str = "g", width: int = 5) -> list[str]:
    """The keys that are found; every row is the right one, and the others are left alone."""
    out = np.full((len(keys), width), 255, np.uint8)
    filled = fetch_rows(str(store), group, keys, out)
    assert filled.dtype == bool
    np.testing.assert_array_equal(out[filled], pattern(keys, width)[filled])
    assert (out[~filled] == 255).all()
    return [key for key, is_there in zip(keys, filled, strict=True) if is_there]


def keep(store: Path | str, keys: list[str], *, limit: int = PLENTY, width: int = 5) -> None:
    add_rows(str(store), "g", keys, pattern(keys, width), limit=limit)


def shards(store: Path) -> list[Path]:
    return sorted(store.glob("*/*.parquet"))


@quick
@given(data=st.data(), small=st.booleans())
def test_what_was_added_is_found_bit_for_bit(
    data: st.DataObject, small: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Any dtype and shape, in any order, over several shards and row groups."""
    store = str(tmp_path_factory.mktemp("rows"))
    keys = data.draw(st.lists(texts, min_size=1, max_size=12, unique=True))
    shape = tuple(data.draw(st.lists(st.integers(1, 4), max_size=2)))
    rows = data.draw(arrays.arrays(data.draw(dtypes), (len(keys), *shape)))
    cut = data.draw(st.integers(0, len(keys)))
    known = data.draw(st.lists(st.sampled_from(keys), max_size=20))
    asked = data.draw(st.permutations([*known, *(f"{key} is not there" for key in keys)]))
    limits = {"SHARD_BYTES": 40, "GROUP_BYTES": 16 if small else 2**20}
    with patch.multiple(rows_module, **limits):
        for part in (slice(0, cut), slice(cut, None)):
            add_rows(store, "g", keys[part], rows[part], limit=PLENTY)
    out = np.zeros((len(asked), *shape), rows.dtype)
    filled = fetch_rows(store, "g", asked, out)
    assert filled.tolist() == [key in keys for key in asked]
    for key, row in zip(asked, out, strict=True):
        expected = rows[keys.index(key)] if key in keys else np.zeros_like(row)
        assert row.tobytes() == expected.tobytes()  # NaN too


def test_groups_dtypes_and_shapes_do_not_meet(tmp_path: Path) -> None:
    keep(tmp_path, ["a"])
    assert found(tmp_path, ["a"]) == ["a"]
    assert found(tmp_path, ["a"], group="other") == []
    for other in (np.zeros((1, 5), np.int8), np.zeros((1, 1, 5), np.uint8), np.zeros((1, 4), np.uint8)):
        assert not fetch_rows(str(tmp_path), "g", ["a"], other).any()
    assert found(tmp_path, ["a"]) == ["a"]  # nobody took it for damaged


def test_an_absent_store_and_no_keys(tmp_path: Path) -> None:
    assert found(tmp_path / "absent", ["a"]) == []
    assert fetch_rows(str(tmp_path), "g", [], np.empty((0, 3))).shape == (0,)
    add_rows(str(tmp_path), "g", [], np.empty((0, 3)), limit=PLENTY)
    assert shards(tmp_path) == []


def test_rows_of_a_memory_map_are_filled(tmp_path: Path) -> None:
    keep(tmp_path, ["a", "b"])
    out = np.lib.format.open_memmap(tmp_path / "out.npy", "w+", np.uint8, (2, 5))
    assert fetch_rows(str(tmp_path), "g", ["b", "a"], out).all()
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), pattern(["b", "a"]))


@quick
@given(steps=st.lists(st.tuples(st.booleans(), st.integers(0, 7)), max_size=25), room=st.integers(0, 5))
def test_the_bound_holds_after_each_add_and_the_most_recently_used_survive(
    steps: list[tuple[bool, int]], room: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = tmp_path_factory.mktemp("rows")
    keep(store / "one", ["0"])
    (one,) = shards(store / "one")
    limit = room * one.stat().st_size + 10
    expected: OrderedDict[str, None] = OrderedDict()
    for adds, number in steps:
        key = str(number)
        if adds and key not in expected:
            keep(store / "all", [key], limit=limit)
            assert sum(file.stat().st_size for file in shards(store / "all")) <= limit
            expected[key] = None
            while len(expected) > room:
                expected.popitem(last=False)
        elif not adds:
            assert found(store / "all", [key]) == [key] * (key in expected)
        if key in expected:
            expected.move_to_end(key)
            assert not adds or found(store / "all", [key]) == [key]
    keys = [str(number) for number in range(8)]
    assert set(found(store / "all", keys)) == set(expected)


def test_a_shard_beyond_the_limit_drives_no_other_out(tmp_path: Path) -> None:
    keep(tmp_path, ["a"], limit=4096)
    keep(tmp_path, [f"key {number}" for number in range(4096)], limit=4096)
    assert found(tmp_path, ["a", "key 1"]) == ["a"]


WRITER = """
import sys
import numpy as np
from graft.storage.rows import add_rows, fetch_rows
store, who, limit = sys.argv[1], sys.argv[2], int(sys.argv[3])
everything = [f"{one}{n:02}{ab}" for one in "pqr" for n in range(15) for ab in "ab"]
pattern = lambda keys: np.stack([np.frombuffer(key.ljust(5).encode(), np.uint8) for key in keys])
for number in range(15):
    keys = [f"{who}{number:02}a", f"{who}{number:02}b"]
    add_rows(store, "g", keys, pattern(keys), limit=limit)
    out = np.zeros((len(everything), 5), np.uint8)
    there = fetch_rows(store, "g", everything, out)
    assert (out[there] == pattern(everything)[there]).all()
"""


@pytest.mark.parametrize("limit", [PLENTY, 6000])
def test_processes_that_write_at_once_lose_nothing(tmp_path: Path, limit: int) -> None:
    """With little room they evict what the others are about to read, which is no error."""
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), who, str(limit)]) for who in "pqr"
    ]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    keys = [f"{who}{number:02}{ab}" for who in "pqr" for number in range(15) for ab in "ab"]
    left = found(tmp_path, keys)
    if limit == PLENTY:
        assert left == keys
    else:
        assert left
        assert sum(file.stat().st_size for file in shards(tmp_path)) <= limit
    assert not list(tmp_path.rglob("*.part"))


@quick
@given(data=st.data())
def test_a_damaged_shard_is_never_believed(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A flipped bit or an end that is missing: each row is right or not found, and can be kept anew."""
    store = tmp_path_factory.mktemp("rows")
    keys = [f"k{number:02}" for number in range(20)]
    with patch.multiple(rows_module, GROUP_BYTES=35):
        keep(store, keys)
    (shard,) = shards(store)
    content = bytearray(shard.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[at] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del content[at:]
    shard.write_bytes(content)
    found(store, keys)
    keep(store, keys)
    assert found(store, keys) == keys


def test_damage_in_one_shard_leaves_the_others(tmp_path: Path) -> None:
    keep(tmp_path, ["a"])
    (shard,) = shards(tmp_path)
    keep(tmp_path, ["b"])
    shard.write_bytes(b"PAR1 and then nothing")
    assert found(tmp_path, ["a", "b"]) == ["b"]
    assert len(shards(tmp_path)) == 1
    keep(tmp_path, ["a"])
    assert found(tmp_path, ["a", "b"]) == ["a", "b"]


def test_a_shard_that_vanishes_after_listing_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(tmp_path, ["a"])
    keep(tmp_path, ["b"])
    first, second = shards(tmp_path)
    before = OnDisk.open

    def evicted(self: OnDisk, shard: Any) -> Any:
        if shard.name.endswith(first.name):
            first.unlink()
        return before(self, shard)

    monkeypatch.setattr(OnDisk, "open", evicted)
    assert len(found(tmp_path, ["a", "b"])) == 1
    assert shards(tmp_path) == [second]


def test_what_a_killed_writer_left_is_cleared_after_a_day(tmp_path: Path) -> None:
    keep(tmp_path, ["a"])
    folder = shards(tmp_path)[0].parent
    old, young = folder / ".x.parquet.1.part", folder / ".y.parquet.2.part"
    for left, age in ((old, 25), (young, 1)):
        left.write_bytes(b"half")
        os.utime(left, (time.time() - age * 3600,) * 2)
    keep(tmp_path, ["b"])
    assert found(tmp_path, ["a", "b"]) == ["a", "b"]
    assert not old.exists()
    assert young.exists()


def test_a_store_that_cannot_be_written_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("not a folder")
    keep(tmp_path / "file", ["a"])
    assert "keeps nothing more" in capsys.readouterr().err
    assert found(tmp_path / "file", ["a"]) == []


def test_one_row_costs_one_row_group(tmp_path: Path) -> None:
    """Reading a few rows of a large store allocates little."""
    for part in range(3):
        keys = [f"{part} {number}" for number in range(200)]
        add_rows(str(tmp_path), "g", keys, np.full((200, 250_000), part, np.uint8), limit=PLENTY)
    code = """
import sys, numpy as np, pyarrow as pa
from graft.storage.rows import fetch_rows
out = np.zeros((3, 250_000), np.uint8)
assert fetch_rows(sys.argv[1], "g", ["0 7", "1 199", "2 0"], out).all()
assert out.mean(axis=1).tolist() == [0, 1, 2]
print(pa.default_memory_pool().max_memory())
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    assert int(run.stdout) < 2.5 * rows_module.READERS * rows_module.GROUP_BYTES  # of 150 MB


@pytest.fixture
def prefix(bucket: str) -> str:
    return f"s3://{bucket}/kept/rows"


def listed(prefix: str) -> dict[str, int]:
    """Sizes of the objects below by their keys."""
    import boto3

    bucket, _, below = prefix.removeprefix("s3://").partition("/")
    answer = boto3.client("s3").list_objects_v2(Bucket=bucket, Prefix=below)
    return {each["Key"]: each["Size"] for each in answer.get("Contents", ())}


def test_rows_come_back_from_s3(prefix: str, proxy: Proxy) -> None:
    keep(prefix, ["a", "b"])
    keep(prefix, ["c"])
    assert found(prefix, ["c", "x", "a", "a"]) == ["c", "a", "a"]
    assert len([key for key in listed(prefix) if key.endswith(".used")]) == 2


@pytest.mark.parametrize("fault", HARM)
def test_a_fault_on_the_way_from_s3_is_overcome(prefix: str, proxy: Proxy, fault: str) -> None:
    """Throttling and broken connections are waited out; hurt bytes are read again, and hurt no shard."""
    keep(prefix, ["a", "b"])
    proxy.faults[".parquet"] = [fault]
    if fault in ("busy", "reset"):
        proxy.faults[prefix.split("/")[2]] = [fault]  # of the listing
    assert found(prefix, ["a", "b"]) == ["a", "b"]
    assert not any(proxy.faults.values())
    assert found(prefix, ["a", "b"]) == ["a", "b"]


def test_a_shard_that_stays_damaged_on_s3_is_removed(prefix: str, proxy: Proxy) -> None:
    keep(prefix, ["a"])
    proxy.faults[".parquet"] = ["flip"] * 20
    assert found(prefix, ["a"]) == []
    assert listed(prefix) == {}


def test_only_what_is_asked_for_is_fetched_from_s3(prefix: str, proxy: Proxy) -> None:
    width, keys = 100_000, [f"k{number:02}" for number in range(50)]
    with patch.multiple(rows_module, GROUP_BYTES=500_000):
        keep(prefix, keys, width=width)
    proxy.forget()
    assert found(prefix, ["k07"], width=width) == ["k07"]
    sizes = [int(stop) - int(start) + 1 for start, stop in (r[6:].split("-") for r in proxy.ranges)]
    assert 500_000 < sum(sizes) < 800_000  # of 5 MB


def test_on_s3_the_most_recently_used_survive(prefix: str, proxy: Proxy) -> None:
    """S3 tells whole seconds."""
    keep(prefix, ["a"])
    size_of_one = sum(listed(prefix).values())
    keep(prefix, ["b"])
    time.sleep(1.1)
    assert found(prefix, ["a"]) == ["a"]
    time.sleep(1.1)
    keep(prefix, ["c"], limit=2 * size_of_one + 50)
    assert found(prefix, ["a", "b", "c"]) == ["a", "c"]
    stems = {key.rsplit(".", 1)[0] for key in listed(prefix)}
    assert len(stems) == 2  # the marker of what was dropped is gone, too


def test_an_object_that_vanishes_while_it_is_read_is_missing(
    prefix: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(prefix, ["a"])
    before = OnS3.open

    def evicted(self: OnS3, shard: Any) -> Any:
        self.remove(shard)
        return before(self, shard)

    monkeypatch.setattr(OnS3, "open", evicted)
    assert found(prefix, ["a"]) == []


def test_a_bucket_that_is_not_there(proxy: Proxy, capsys: pytest.CaptureFixture[str]) -> None:
    """Reading says so at once, before hours of work; writing is too late for an error."""
    with pytest.raises(GraftError, match="the bucket does not exist"):
        found("s3://absent-bucket/rows", ["a"])
    keep("s3://absent-bucket/rows", ["a"])
    assert "s3://absent-bucket/rows keeps nothing more" in capsys.readouterr().err
