"""A table's images as one tensor: the same whether they were decoded now or before."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from graft.errors import GraftError
from graft.images import loading, memory
from graft.images import table as table_module
from graft.images.decoding import to_pixels
from graft.images.loading import Images, load_images
from graft.images.preprocessing import Preprocessing
from graft.images.table import ImageTable, read_table, write_table

Encode = Callable[..., bytes]
Photo = Callable[..., Image.Image]
SIZES = Preprocessing(16, 20)


def small_table(folder: Path, contents: list[bytes]) -> ImageTable:
    """In row groups of five."""
    facts = {
        "split": "train",
        "domain": "",
        "width": 48,
        "height": 32,
        "mode": "RGB",
        "phash": 0,
        "leak": False,
    }
    records = [
        {
            "image": {"bytes": content, "path": f"{number}.png"},
            "label": number % 2,
            "sha256": hashlib.sha256(content).hexdigest(),
            "duplicate_of": None,
            "near_duplicate_of": None,
            **facts,
        }
        for number, content in enumerate(contents)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_module, "GROUP_ROWS", 5)
        write_table(folder, records, classes=["ant", "bee"], data_md5="")
    return read_table(folder)


@pytest.fixture(scope="module")
def contents(photo: Photo, encoded: Encode) -> list[bytes]:
    """Six PNGs, six JPEGs, and the first once more."""
    files = [encoded(photo(seed), kind) for seed in range(6) for kind in ("PNG", "JPEG")]
    return [*files, files[0]]


@pytest.fixture(scope="module")
def made(contents: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> ImageTable:
    return small_table(tmp_path_factory.mktemp("made") / "images", contents)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What was decoded since."""
    seen: list[bytes] = []

    def counted(content: bytes, preprocessing: Preprocessing) -> np.ndarray:
        seen.append(content)
        return to_pixels(content, preprocessing)

    monkeypatch.setattr(loading, "to_pixels", counted)
    return seen


def pixels_of(contents: list[bytes], preprocessing: Preprocessing = SIZES) -> np.ndarray:
    return np.stack([to_pixels(content, preprocessing) for content in contents])


def test_images_are_loaded_in_the_order_asked(made: ImageTable, contents: list[bytes]) -> None:
    images = load_images(made, pd.Index([6, 0, 3]), SIZES)
    assert (len(images), images.labels.tolist()) == (3, [0, 0, 1])
    assert images.pixels.dtype == torch.uint8
    assert images.labels.dtype == torch.int64
    assert np.array_equal(images.pixels, pixels_of([contents[row] for row in (6, 0, 3)]))
    assert images.rows["path"].tolist() == ["6.png", "0.png", "3.png"]
    assert list(images.rows) == ["sha256", "path", "domain", "split"]


def test_no_image_is_no_error(made: ImageTable, home: Path) -> None:
    assert load_images(made, pd.Index([], dtype=int), SIZES).pixels.shape == (0, 3, 20, 20)


@pytest.mark.parametrize(
    "index", [slice(1, 3), torch.tensor([1, 2]), np.array([1, 2]), torch.tensor([False, True, True, False])]
)
def test_images_can_be_indexed(index: Any) -> None:
    rows = pd.DataFrame({"sha256": list("abcd")})
    images = Images(torch.arange(4).view(4, 1, 1, 1), torch.arange(4), rows)[index]
    assert images.labels.tolist() == images.pixels.flatten().tolist() == [1, 2]
    assert images.rows["sha256"].to_dict() == {0: "b", 1: "c"}


def test_a_table_that_rotted_is_named(tmp_path: Path, photo: Photo, encoded: Encode, home: Path) -> None:
    table = small_table(tmp_path / "images", [encoded(photo(0)), b"rotten"])
    with pytest.raises(GraftError, match=r"1\.png .*cannot be decoded: text") as caught:
        load_images(table, table.select(), SIZES)
    assert "run data_validation again" in caught.value.fix


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    first=st.lists(st.integers(0, 12), max_size=15),
    second=st.lists(st.integers(0, 12), max_size=15),
    shard=st.sampled_from([1500, 5000, 2**26]),
)
def test_the_result_is_the_same_with_and_without_what_is_kept(
    made: ImageTable,
    contents: list[bytes],
    first: list[int],
    second: list[int],
    shard: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Images in any order, more than once, over several shards and row groups."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRAFT_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setattr(loading, "SHARD_BYTES", shard)
        for rows in (first, second, first):
            images = load_images(made, pd.Index(rows, dtype=int), SIZES)
            expected = [to_pixels(contents[row], SIZES) for row in rows]
            assert images.pixels.numpy().tobytes() == b"".join(each.tobytes() for each in expected)
            assert images.rows["path"].tolist() == [f"{row}.png" for row in rows]


def test_only_what_is_new_is_read_and_decoded(
    made: ImageTable,
    contents: list[bytes],
    home: Path,
    decoded: list[bytes],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    load_images(made, pd.Index(range(9)), SIZES)
    assert sorted(decoded) == sorted(contents[:9])
    decoded.clear()
    asked: list[list[int]] = []
    before = ImageTable.parts
    monkeypatch.setattr(ImageTable, "parts", lambda self, i: asked.append(list(i)) or before(self, i))
    images = load_images(made, made.rows.index, SIZES)
    assert sorted(decoded) == sorted(contents[9:12])  # the last is the first once more
    assert asked == [[9, 10, 11]]
    assert np.array_equal(images.pixels, pixels_of(contents))
    assert "10 of 13 images were decoded before" in capsys.readouterr().err


def test_what_decides_the_pixels_keeps_them_apart(
    made: ImageTable, contents: list[bytes], home: Path, decoded: list[bytes]
) -> None:
    others = [Preprocessing(14, 20), Preprocessing(16, 22), Preprocessing(16, 20, interpolation="bicubic")]
    for preprocessing in (SIZES, *others):
        images = load_images(made, made.rows.index, preprocessing)
        assert np.array_equal(images.pixels, pixels_of(contents, preprocessing))
    assert len(decoded) == 4 * len(contents)
    load_images(made, made.rows.index, Preprocessing(16, 20, mean=(0, 0, 0), std=(1, 1, 1)))
    assert len(decoded) == 4 * len(contents)


def test_another_decoder_decodes_again(
    made: ImageTable, home: Path, decoded: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    load_images(made, pd.Index([0]), SIZES)
    monkeypatch.setattr(loading, "DECODERS", ("of tomorrow",))
    load_images(made, pd.Index([0]), SIZES)
    assert len(decoded) == 2


def test_without_a_home_nothing_is_kept(
    made: ImageTable, decoded: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GRAFT_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        load_images(made, pd.Index([0]), SIZES)
    assert len(decoded) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_store_costs_time_only(
    made: ImageTable, contents: list[bytes], home: Path, decoded: list[bytes]
) -> None:
    load_images(made, made.rows.index, SIZES)
    (shard,) = home.rglob("*.parquet")
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    decoded.clear()
    images = load_images(made, made.rows.index, SIZES)
    assert decoded
    assert np.array_equal(images.pixels, pixels_of(contents))


def test_more_than_there_is_room_for_does_not_drive_itself_out(
    made: ImageTable, home: Path, decoded: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With room for five of twelve, a second run finds those five, and so does a third."""
    sizes, row = Preprocessing(50, 60), 3 * 60 * 60
    monkeypatch.setattr(loading, "MOST_KEPT", 5 * (row + 1000))  # a shard is more than its rows
    monkeypatch.setattr(loading, "SHARD_BYTES", row)
    index = made.rows.index[:12]
    load_images(made, index, sizes)
    counts = []
    for _ in range(3):
        decoded.clear()
        load_images(made, index, sizes)
        counts.append(len(decoded))
    assert counts == [7, 7, 7]
    assert sum(file.stat().st_size for file in home.rglob("*.parquet")) <= 5 * (row + 1000)


def test_pixels_in_a_file_are_the_same(
    made: ImageTable, contents: list[bytes], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 1000)
    for _ in range(2):
        images = load_images(made, made.rows.index, SIZES)
        assert np.array_equal(images.pixels, pixels_of(contents))
        assert torch.equal(images[torch.tensor([3, 1])].pixels, images.pixels[[3, 1]])
    assert {file.name for file in home.iterdir()} == {"pixels"}
