"""A data folder is looked at once: again only what changed, and with the same result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from graft.images import inspection
from graft.images.decoding import decode
from graft.images.inspection import inspect
from graft.images.scanning import scan
from graft.params import Data

Make = Callable[..., Path]
Photo = Callable[..., Image.Image]
Seen = tuple[pd.DataFrame, np.ndarray, np.ndarray]


@pytest.fixture
def folder(data_folder: Make, photo: Photo) -> Path:
    """Two classes with every kind of file: whole, broken, equal, in conflict, and out of place."""
    folder = data_folder({"ant": 5, "bee": 5, "unlabeled": 2})
    ant, image = folder / "ant", photo(999, (120, 90))
    image.save(ant / "whole.jpg")
    (ant / "truncated.jpg").write_bytes((ant / "whole.jpg").read_bytes()[:1500])
    (ant / "zero.jpg").write_bytes(b"")
    (ant / "again.png").write_bytes((ant / "0000.png").read_bytes())
    (folder / "bee" / "conflict.png").write_bytes((ant / "0001.png").read_bytes())
    Image.new("RGB", (9, 20)).save(ant / "small.png")
    photo(1).convert("CMYK").save(ant / "cmyk.jpg")
    photo(2).save(folder / "misplaced.png")
    return folder


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What was decoded since."""
    seen: list[bytes] = []

    def counted(content: bytes, **bounds: Any) -> Image.Image:
        seen.append(content)
        return decode(content, **bounds)

    monkeypatch.setattr(inspection, "decode", counted)
    return seen


def look(folder: Path, **params: Any) -> Seen:
    return inspect(folder, scan(folder).files, Data.model_validate(params))


def alone(folder: Path, **params: Any) -> Seen:
    """As it is seen where nothing is kept."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("GRAFT_HOME", raising=False)
        return look(folder, **params)


def assert_same(found: Seen, expected: Seen) -> None:
    pd.testing.assert_frame_equal(found[0], expected[0])
    for one, other in zip(found[1:], expected[1:], strict=True):
        np.testing.assert_array_equal(one, other)


def reasons(seen: Seen) -> dict[str, str]:
    broken = seen[0].dropna(subset="reason")
    return dict(zip(broken["path"], broken["reason"], strict=True))


def test_every_file_is_told_apart(folder: Path) -> None:
    frame, grey, small = seen = alone(folder, min_side=10)
    assert reasons(seen) == {
        "ant/small.png": "too small: 9 x 20, and min_side is 10",
        "ant/truncated.jpg": "truncated",
        "ant/zero.jpg": "zero bytes",
        "ant/0001.png": "equals bee/conflict.png, which has another label",
        "bee/conflict.png": "equals ant/0001.png, which has another label",
        "misplaced.png": "outside any class folder",
    }
    whole = frame.set_index("path").loc["ant/whole.jpg"]
    assert (whole["width"], whole["height"], whole["mode"]) == (120, 90, "RGB")
    assert grey.shape == (len(frame), 32, 32)
    assert small.shape == (len(frame), 16, 16, 3)
    assert (grey.any(axis=(1, 2)) == frame["sha256"].notna()).all()


def test_a_second_look_decodes_nothing_and_sees_the_same(
    folder: Path, home: Path, decoded: list[bytes]
) -> None:
    expected = alone(folder)
    assert_same(look(folder), expected)
    decoded.clear()
    assert_same(look(folder), expected)
    assert decoded == []


def test_only_what_is_new_or_changed_is_decoded(
    folder: Path, home: Path, decoded: list[bytes], photo: Photo, capsys: pytest.CaptureFixture[str]
) -> None:
    look(folder)
    photo(77).save(folder / "bee" / "new.png")
    photo(78).save(folder / "ant" / "0002.png")  # under a name that was seen
    (folder / "ant" / "0003.png").rename(folder / "bee" / "moved.png")
    decoded.clear()
    found = look(folder)
    new = [(folder / name).read_bytes() for name in ("ant/0002.png", "bee/new.png")]
    assert sorted(decoded) == sorted(new)
    assert_same(found, alone(folder))
    assert "files are as they were" in capsys.readouterr().err


def test_other_bounds_look_again(folder: Path, home: Path) -> None:
    for params in ({"min_side": 10}, {"min_side": 9}, {"min_side": 9, "max_pixels": 2000}):
        assert_same(look(folder, **params), alone(folder, **params))


def test_what_no_file_says_is_not_kept(folder: Path, home: Path) -> None:
    """Where a file lies and whether it can be read may differ next time."""
    link = folder / "ant" / "link.png"
    link.symlink_to(folder / "nowhere")
    assert reasons(look(folder))["ant/link.png"] == "cannot be read: No such file or directory"
    link.unlink()
    (folder / "misplaced.png").rename(link)
    assert not {"ant/link.png", "misplaced.png"} & set(reasons(look(folder)))


def test_a_damaged_store_costs_time_only(folder: Path, home: Path, decoded: list[bytes]) -> None:
    expected = look(folder)
    (shard,) = home.rglob("*.parquet")
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    decoded.clear()
    assert_same(look(folder), expected)
    assert decoded


def test_without_a_home_nothing_is_kept(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GRAFT_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    look(folder)
    assert {entry.name for entry in tmp_path.iterdir()} == {"data"}
