"""Views on disk: of every training image, the same for the same seed, whole or refused."""

from __future__ import annotations

import errno
import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch.nn import functional

from graft.errors import GraftError
from graft.images import views
from graft.images.augmentation import augment, policy, read_policy
from graft.images.loading import load_images
from graft.images.preprocessing import Preprocessing
from graft.images.table import read_table, write_table
from graft.images.view_sheet import MARGIN, MIN_WIDTH, _wrapped, describe
from graft.images.views import load_view_pixels, read_view_rows, read_views, write_views
from graft.params import Augmentation

NOTHING: dict[str, Any] = {
    "crop_scale": (1, 1),
    "crop_ratio": (1, 1),
    "rotate": 0,
    "scale": (1, 1),
    "brightness": 0,
    "contrast": 0,
    "saturation": 0,
    "hue": 0,
}


def png(seed: int, width: int, height: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def record(seed: int, size: tuple[int, int] = (16, 16), **facts: Any) -> dict[str, Any]:
    content = png(seed, *size)
    return {
        "image": {"bytes": content, "path": f"{seed}.png"},
        "label": seed % 2,
        "split": "train",
        "domain": "",
        "width": size[0],
        "height": size[1],
        "mode": "RGB",
        "leak": False,
        "phash": 0,
        "sha256": hashlib.sha256(content).hexdigest(),
        "duplicate_of": None,
        "near_duplicate_of": None,
        **facts,
    }


def table_of(folder: Path, records: Sequence[dict[str, Any]]) -> Path:
    write_table(folder, records, classes=["cat", "dog"], data_md5="0" * 32)
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Ten training images of three sizes in two domains, and some that must not be augmented."""
    sizes = [(16, 16), (20, 12), (300, 280)]
    training = [record(seed, sizes[seed % 3], domain=("source", "target")[seed // 5]) for seed in range(10)]
    others = [
        record(10, split="test", domain="target"),
        record(11, split="val", domain="target"),
        record(12, split="unlabeled", label=-1, domain="target"),
        record(13, leak=True, domain="source"),
        record(14, duplicate_of="0.png", domain="source"),
    ]
    return table_of(tmp_path / "images", training + others)


def test_every_training_image_has_its_views(images: Path, tmp_path: Path) -> None:
    summary = write_views(images, Augmentation(views=3), tmp_path / "views")
    pixels, frame = read_views(tmp_path / "views")

    table = read_table(images)
    training = table.rows.loc[table.select(split="train")].set_index("sha256")
    assert summary.items() >= {"images": 10, "views": 3, "rows": 30}.items()
    assert list(frame.columns) == ["view", "sha256", "label", "domain", "split"]
    assert set(zip(frame["view"], frame["sha256"], strict=True)) == {
        (view, name) for view in range(3) for name in training.index
    }
    for column in ("label", "domain", "split"):
        assert list(frame[column]) == list(training.loc[frame["sha256"], column])
    for view, name in zip(pixels, frame["sha256"], strict=True):
        side = min(256, *training.loc[name, ["width", "height"]])
        assert view.shape == (3, side, side)
        assert view.dtype == np.uint8


def test_views_are_what_the_policy_makes_of_the_centre_square(images: Path, tmp_path: Path) -> None:
    write_views(images, Augmentation(views=1, **NOTHING), tmp_path / "views")
    pixels, frame = read_views(tmp_path / "views")
    table = read_table(images)
    rows = table.rows.reset_index().set_index("sha256").loc[frame["sha256"], "index"]
    for view, row in zip(pixels, rows, strict=True):
        side = view.shape[-1]
        square = load_images(table, pd.Index([row]), Preprocessing(side, side)).pixels[0]
        assert np.array_equal(view, square)


def test_views_of_an_image_differ_from_it_and_from_each_other(images: Path, tmp_path: Path) -> None:
    write_views(images, Augmentation(views=4), tmp_path / "views")
    pixels, _ = read_views(tmp_path / "views")
    assert len({view.tobytes() for view in pixels}) == 40


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(images: Path, tmp_path: Path) -> None:
    params = Augmentation(noise=0.1, elastic=1, flip_horizontal=0.5)
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        torch.manual_seed(len(name))
        write_views(images, params.model_copy(update={"seed": seed}), tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == ["data-00000-of-00001.parquet", "policy.json", "sheet.png", "views.json"]
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    same, _ = read_views(tmp_path / "one")
    other, _ = read_views(tmp_path / "other")
    assert not any(np.array_equal(one, two) for one, two in zip(same, other, strict=True))


def test_a_view_does_not_depend_on_the_other_images(tmp_path: Path) -> None:
    for name, seeds in (("few", range(3)), ("many", range(-5, 20))):
        table = table_of(tmp_path / f"images-{name}", [record(abs(seed) + 50 * (seed < 0)) for seed in seeds])
        write_views(table, Augmentation(noise=0.05), tmp_path / name)
    few, many = (dict(zip(*keyed(tmp_path / name), strict=True)) for name in ("few", "many"))
    assert few.items() <= many.items()


def keyed(folder: Path) -> tuple[list[tuple[int, str]], list[bytes]]:
    pixels, frame = read_views(folder)
    keys = list(zip(frame["view"], frame["sha256"], strict=True))
    return keys, [view.tobytes() for view in pixels]


def test_many_shards_hold_the_same_views(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_views(images, Augmentation(), tmp_path / "one")
    monkeypatch.setattr(views, "SHARD_BYTES", 3 * 256**2)
    monkeypatch.setattr(views, "BATCH", 2)
    write_views(images, Augmentation(), tmp_path / "many")
    shards = sorted((tmp_path / "many").glob("*.parquet"))
    assert len(shards) > 2
    assert shards[0].name == f"data-00000-of-{len(shards):05d}.parquet"
    assert dict(zip(*keyed(tmp_path / "one"), strict=True)) == dict(
        zip(*keyed(tmp_path / "many"), strict=True)
    )
    pixels, frame = load_view_pixels(tmp_path / "many", Preprocessing(16, 16))
    assert len(pixels) == len(frame) == 20


def test_of_chosen_views_only_their_row_groups_are_read(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "ROWS", 4)
    write_views(images, Augmentation(views=3), tmp_path / "views")
    pixels, frame = load_view_pixels(tmp_path / "views", Preprocessing(16, 16))
    read: list[int] = []
    read_row_group = pq.ParquetFile.read_row_group

    def noted(file: pq.ParquetFile, group: int, columns: list[str]) -> Any:
        read.append(group)
        return read_row_group(file, group, columns)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", noted)
    wanted = np.array([1, 2, 29])
    some, rows = load_view_pixels(tmp_path / "views", Preprocessing(16, 16), wanted)
    assert read == [0, 7]
    assert torch.equal(some, pixels[wanted])
    pd.testing.assert_frame_equal(rows, frame.iloc[wanted].reset_index(drop=True))


def test_the_digest_is_that_of_the_pixels(images: Path, tmp_path: Path) -> None:
    write_views(images, Augmentation(), tmp_path / "views")
    pixels, frame = read_views(tmp_path / "views")
    rows = read_view_rows(tmp_path / "views")
    assert list(rows["digest"]) == [hashlib.sha256(view.tobytes()).hexdigest() for view in pixels]
    pd.testing.assert_frame_equal(rows.drop(columns="digest"), frame)


def test_no_views_is_an_empty_table_that_says_so(images: Path, tmp_path: Path) -> None:
    summary = write_views(images, Augmentation(views=0, rotate=45), tmp_path / "views")
    assert summary["rows"] == 0
    assert summary["note"] == "no views were written: augmentation.views is 0"
    pixels, frame = load_view_pixels(tmp_path / "views", Preprocessing(8, 9))
    assert pixels.shape == (0, 3, 9, 9)
    assert list(frame.columns) == ["view", "sha256", "label", "domain", "split"]
    assert len(frame) == 0
    assert read_views(tmp_path / "views")[0] == []
    assert read_policy(tmp_path / "views").rotate == 45
    assert Image.open(tmp_path / "views" / "sheet.png").size[1] > 200  # what training draws


def test_no_training_images_is_an_empty_table_that_says_so(tmp_path: Path) -> None:
    table = table_of(tmp_path / "images", [record(1, split="test")])
    summary = write_views(table, Augmentation(), tmp_path / "views")
    assert summary["note"] == "no views were written: there are no training images"
    assert len(read_views(tmp_path / "views")[1]) == 0
    assert (tmp_path / "views" / "sheet.png").is_file()


def test_views_are_resized_as_images_are(images: Path, tmp_path: Path) -> None:
    preprocessing = Preprocessing(28, 32, interpolation="bicubic")
    write_views(images, Augmentation(views=1, **NOTHING), tmp_path / "views")
    pixels, frame = load_view_pixels(tmp_path / "views", preprocessing)
    table = read_table(images)
    square = table.rows[(table.rows["width"] == table.rows["height"]) & (table.rows["split"] == "train")]
    square = square[~square["leak"] & square["duplicate_of"].isna()]
    expected = load_images(table, square.index, preprocessing)
    where = [list(frame["sha256"]).index(name) for name in square["sha256"]]
    assert pixels.shape == (10, 3, 32, 32)
    assert torch.equal(pixels[where], expected.pixels)


def test_photographs_keep_their_content(shared: Path, tmp_path: Path) -> None:
    import zipfile

    archive = zipfile.ZipFile(shared / "data" / "hymenoptera_256.zip")
    names = [name for name in archive.namelist() if name.endswith(".jpg")][:6]
    contents = [archive.read(name) for name in names]
    records = [
        record(number)
        | {"image": {"bytes": content, "path": name}, "sha256": hashlib.sha256(content).hexdigest()}
        | dict(zip(("width", "height"), Image.open(io.BytesIO(content)).size, strict=True))
        for number, (name, content) in enumerate(zip(names, contents, strict=True))
    ]
    images = table_of(tmp_path / "images", records)
    moved_only = Augmentation(brightness=0, contrast=0, saturation=0, hue=0)
    write_views(images, moved_only, tmp_path / "views")
    pixels, frame = read_views(tmp_path / "views")
    table = read_table(images)
    originals = load_images(table, table.rows.index, Preprocessing(256, 256)).pixels.float()
    for view, name in zip(pixels, frame["sha256"], strict=True):
        # Seen from afar, a view is nearest to its own photograph.
        afar = functional.adaptive_avg_pool2d(torch.cat([torch.tensor(view)[None].float(), originals]), 4)
        assert (afar[1:] - afar[0]).abs().mean((1, 2, 3)).argmin() == list(table.rows["sha256"]).index(name)


def test_the_sheet_has_a_row_for_each_class(images: Path, tmp_path: Path) -> None:
    write_views(images, Augmentation(views=2, **NOTHING), tmp_path / "views")
    sheet = np.asarray(Image.open(tmp_path / "views" / "sheet.png"))
    lines = np.flatnonzero((sheet == [0xD9, 0x48, 0x0F]).all(axis=2).sum(axis=1) > 80)  # frames
    assert len(lines) == 2 * 2 * 2  # two classes, above and below the original, two pixels wide
    left = np.flatnonzero((sheet[lines[0]] == [0xD9, 0x48, 0x0F]).all(axis=1))[0] + 2
    tile = sheet[lines[1] + 1 : lines[2], left : left + 88]
    view = sheet[lines[1] + 1 : lines[2], left + 92 : left + 180]
    assert np.array_equal(tile, view[:88])  # this policy does nothing


def test_the_words_of_the_sheet_name_what_is_on() -> None:
    assert describe(Augmentation(**NOTHING)) == ["nothing is on"]
    assert describe(Augmentation(**{**NOTHING, "rotate": 15, "mixup": 0.2})) == [
        "rotate ±15°", "mixup 0.2 in training",
    ]  # fmt: skip
    everything = Augmentation(
        flip_horizontal=0.5,
        flip_vertical=0.5,
        invert=0.5,
        noise=0.1,
        perspective=0.1,
        elastic=1,
        mixup=1,
        cutmix=1,
    )
    assert len(describe(everything)) == len(Augmentation.model_fields) - len({"views", "seed"})
    assert len(_wrapped(describe(everything), MIN_WIDTH - 2 * MARGIN)) == 2


def test_more_classes_than_fit_are_counted(tmp_path: Path) -> None:
    classes = [f"a class with a long name, number {number:03d}" for number in range(60)]
    records = [record(number) | {"label": number} for number in range(60)]
    write_table(tmp_path / "images", records, classes=classes, data_md5="0" * 32)
    write_views(tmp_path / "images", Augmentation(views=64, **NOTHING), tmp_path / "views")
    assert Image.open(tmp_path / "views" / "sheet.png").size[1] < 4500


def test_a_table_that_is_not_there_names_the_step(tmp_path: Path) -> None:
    with pytest.raises(GraftError, match=r"not a whole image table.*\n.*data_validation"):
        write_views(tmp_path, Augmentation(), tmp_path / "views")
    assert not (tmp_path / "views").exists()


def test_a_range_that_runs_downwards_is_refused_before_any_work(images: Path, tmp_path: Path) -> None:
    with pytest.raises(GraftError, match="runs downwards"):
        write_views(images, Augmentation(scale=(2, 1)), tmp_path / "views")
    assert not (tmp_path / "views").exists()


def test_an_image_that_no_longer_decodes_is_named(tmp_path: Path) -> None:
    broken = record(0) | {"image": {"bytes": png(0, 16, 16)[:60], "path": "dogs/broken.png"}}
    images = table_of(tmp_path / "images", [broken, record(1)])
    with pytest.raises(GraftError, match=r"dogs/broken\.png.*cannot be decoded.*\n.*data_validation"):
        write_views(images, Augmentation(), tmp_path / "views")
    assert not (tmp_path / "views").exists()


def damage_nothing_written(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def damage_shard_cut(folder: Path) -> None:
    shard = next(folder.glob("*.parquet"))
    shard.write_bytes(shard.read_bytes()[:200])


def damage_shard_gone(folder: Path) -> None:
    next(folder.glob("*.parquet")).unlink()


def damage_rows_gone(folder: Path) -> None:
    shard = next(folder.glob("*.parquet"))
    pq.write_table(pq.read_table(shard).slice(1), shard)


def damage_another_json(folder: Path) -> None:
    (folder / "views.json").write_text("[]")


@pytest.mark.parametrize(
    "damage",
    [damage_nothing_written, damage_shard_cut, damage_shard_gone, damage_rows_gone, damage_another_json],
)
@pytest.mark.parametrize("read", [read_views, lambda folder: load_view_pixels(folder, Preprocessing(8, 8))])
def test_half_written_views_are_never_taken_for_whole(
    images: Path, tmp_path: Path, damage: Any, read: Any
) -> None:
    write_views(images, Augmentation(), tmp_path / "views")
    damage(tmp_path / "views")
    with pytest.raises(GraftError, match=r"does not hold whole views.*\n.*augmentation step again"):
        read(tmp_path / "views")


@pytest.mark.parametrize("stop", [OSError(errno.ENOSPC, "no space left on device"), KeyboardInterrupt()])
def test_a_write_that_stops_leaves_the_old_views(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: BaseException
) -> None:
    write_views(images, Augmentation(views=1), tmp_path / "views")
    before = keyed(tmp_path / "views")

    def fail(*_: object, **__: object) -> None:
        raise stop

    monkeypatch.setattr(pq.ParquetWriter, "write_table", fail)
    with pytest.raises((GraftError, KeyboardInterrupt)) as caught:
        write_views(images, Augmentation(views=2), tmp_path / "views")
    if isinstance(stop, OSError):
        assert "the disk is full" in str(caught.value)
    assert keyed(tmp_path / "views") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "views"]


def test_training_and_views_do_the_same_to_an_image(tmp_path: Path) -> None:
    """A view is `augment` at the image's own size: one policy, used twice."""
    images = table_of(tmp_path / "images", [record(seed) for seed in range(4)])
    params = Augmentation(views=1, rotate=30, seed=5)
    write_views(images, params, tmp_path / "views")
    pixels, frame = read_views(tmp_path / "views")
    table = read_table(images)
    preprocessing = Preprocessing(16, 16)
    originals = load_images(table, table.rows.index, preprocessing)
    for view, name in zip(pixels, frame["sha256"], strict=True):
        original = originals[np.array(originals.rows["sha256"] == name)].pixels
        expected = augment(policy(params, preprocessing), original, seed=(5, 0, int(name[:16], 16)))
        assert np.array_equal(view, expected[0].numpy())
