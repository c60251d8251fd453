"""The step as a whole: good folders become tables, bad ones a named fault with evidence."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from graft.errors import GraftError
from graft.images.importing import import_data
from graft.images.table import ImageTable, read_table
from graft.images.validation import validate
from graft.params import Data

Make = Callable[..., Path]
Photo = Callable[..., Image.Image]


def run(folder: Path, **params: Any) -> tuple[dict[str, Any], ImageTable]:
    images, docs = folder.parent / "images", folder.parent / "docs"
    summary = validate(folder, Data.model_validate(params), images, docs)
    return summary, read_table(images)


def evidence(folder: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((folder.parent / "docs" / "validation.json").read_text())
    return facts


def by_path(table: ImageTable, column: str) -> dict[str, Any]:
    return dict(zip(table.rows["path"], table.rows[column], strict=True))


@pytest.fixture
def spoiled(data_folder: Make, photo: Photo) -> Path:
    """Train and test of two classes, with one of every kind of bad or odd file."""
    folder = data_folder({"train/ant": 30, "train/bee": 30, "test/ant": 10, "test/bee": 10})
    ant, image = folder / "train" / "ant", photo(999, (120, 90))
    image.save(ant / "whole.jpg")
    (ant / "truncated.jpg").write_bytes((ant / "whole.jpg").read_bytes()[:1500])
    (ant / "zero.jpg").write_bytes(b"")
    (ant / "notes.txt").write_text("not an image\n")
    (ant / ".DS_Store").write_text("hidden")
    image.save(ant / "animated.gif")
    Image.new("1", (9000, 9000)).save(ant / "huge.png")
    Image.new("RGB", (1, 1)).save(ant / "one.png")
    photo(1000).convert("CMYK").save(ant / "cmyk.jpg")
    photo(1001).convert("P").save(ant / "palette.png")
    photo(1002).convert("L").convert("I;16").save(ant / "deep.png")
    photo(1003).convert("L").save(ant / "grey.png")
    photo(1004).convert("RGBA").save(ant / "alpha.png")
    return folder


BROKEN = {
    "train/ant/animated.gif": "GIF, which is not a photo format",
    "train/ant/huge.png": "huge: 9000 x 9000, and max_pixels is 64,000,000",
    "train/ant/notes.txt": "text, not an image",
    "train/ant/one.png": "too small: 1 x 1, and min_side is 8",
    "train/ant/truncated.jpg": "truncated",
    "train/ant/zero.jpg": "zero bytes",
}


def test_broken_files_are_listed_and_left_out(spoiled: Path) -> None:
    summary, table = run(spoiled, max_broken_fraction=0.1)
    assert (summary["files"], summary["rows"], summary["broken"], summary["ignored"]) == (92, 86, 6, 1)
    listed = {entry["path"]: entry["reason"] for entry in evidence(spoiled)["broken_files"]}
    assert listed == BROKEN
    assert not set(BROKEN) & set(table.rows["path"])
    modes = by_path(table, "mode")
    odd = {"cmyk.jpg": "CMYK", "palette.png": "P", "deep.png": "I;16", "grey.png": "L", "alpha.png": "RGBA"}
    assert {name: modes[f"train/ant/{name}"] for name in odd} == odd
    lines = (spoiled.parent / "docs" / "broken.csv").read_text().splitlines()
    assert lines[0] == "path,reason"
    assert len(lines) == 7


def test_too_many_broken_files_fail_after_the_evidence_is_written(spoiled: Path) -> None:
    with pytest.raises(GraftError) as caught:
        run(spoiled)
    message = str(caught.value)
    assert "broken files  6 of 92 (6.5%)  at most 2.0%" in message
    assert "train/ant/truncated.jpg  truncated" in message
    assert str(spoiled.parent / "docs" / "index.html") in message
    assert "max_broken_fraction" in caught.value.fix
    assert not (spoiled.parent / "images").exists()
    assert evidence(spoiled)["passed"] is False
    page = (spoiled.parent / "docs" / "index.html").read_text()
    assert "Data validation: failed" in page
    assert "train/ant/zero.jpg" in page
    assert "http" not in page
    assert Image.open(spoiled.parent / "docs" / "sheet.png").height > 100


def test_one_broken_file_in_a_small_set_is_no_failure(data_folder: Make) -> None:
    folder = data_folder({"ant": 8, "bee": 8})
    (folder / "ant" / "broken.png").write_bytes(b"")
    summary, _ = run(folder)
    assert (summary["passed"], summary["broken"], summary["rows"]) == (True, 1, 16)


def test_the_same_image_in_train_and_test_never_enters_training(data_folder: Make, photo: Photo) -> None:
    folder = data_folder({"train/ant": 20, "train/bee": 20, "test/ant": 4, "test/bee": 4})
    test = next((folder / "test" / "ant").iterdir())
    shutil.copy(test, folder / "train" / "ant" / "equal.png")
    with Image.open(test) as image:
        image.save(folder / "train" / "ant" / "resaved.jpg", quality=85)
    summary, table = run(folder)
    assert summary["leaks"] == 2
    leak = by_path(table, "leak")
    assert {path for path in leak if leak[path]} == {"train/ant/equal.png", "train/ant/resaved.jpg"}
    chosen = set(table.rows.loc[table.select(split=["train", "val"]), "path"])
    assert not chosen & {"train/ant/equal.png", "train/ant/resaved.jpg"}
    assert len(table.select(split="test")) == 8
    with pytest.raises(GraftError, match=r"in the test set too +2 of 42") as caught:
        run(folder, max_leak_fraction=0.03)
    assert "max_leak_fraction" in caught.value.fix


def test_a_training_set_that_is_all_in_test_is_no_training_set(data_folder: Make) -> None:
    folder = data_folder({"test/ant": 6, "test/bee": 6})
    shutil.copytree(folder / "test", folder / "train")
    with pytest.raises(GraftError, match=r"training images of a domain +0 +at least 1"):
        run(folder, max_leak_fraction=1)


def test_one_image_with_two_labels_is_named(data_folder: Make) -> None:
    folder = data_folder({"ant": 30, "bee": 30})
    first = next((folder / "ant").iterdir())
    shutil.copy(first, folder / "bee" / "copy.png")
    summary, table = run(folder)
    assert summary["rows"] == 59
    assert not {"bee/copy.png", f"ant/{first.name}"} & set(table.rows["path"])
    with pytest.raises(
        GraftError, match=f"bee/copy.png +equals ant/{first.name}, which has another"
    ) as caught:
        run(folder, max_broken_fraction=0)
    assert "delete the copy whose label is wrong" in caught.value.fix


def test_two_domains(data_folder: Make) -> None:
    folder = data_folder(
        {
            **{f"source/{name}": 15 for name in ("ant", "bee")},
            **{f"target/train/{name}": 6 for name in ("ant", "bee")},
            **{f"target/test/{name}": 5 for name in ("ant", "bee")},
            "target/unlabeled": 9,
        }
    )
    summary, table = run(folder)
    assert summary["counts"]["target"]["test"] == 10
    assert summary["counts"]["target"]["unlabeled"] == 9
    assert set(summary["counts"]["source"]) == {"train", "val"}
    assert (table.domains, table.target, table.classes) == (("source", "target"), "target", ("ant", "bee"))
    assert table.rows.loc[table.rows["split"] == "unlabeled", "label"].eq(-1).all()
    content = (folder / table.rows["path"][3]).read_bytes()
    assert table.contents(table.rows.index[[3]]) == [content]


def test_the_same_folder_gives_the_same_bytes(data_folder: Make) -> None:
    folder = data_folder({"ant": 10, "bee": 10})
    run(folder)
    first = {file.name: file.read_bytes() for file in (folder.parent / "images").iterdir()}
    run(folder)
    assert first == {file.name: file.read_bytes() for file in (folder.parent / "images").iterdir()}


def test_when_nothing_decodes_the_evidence_still_says_so(data_folder: Make) -> None:
    folder = data_folder({"ant": 5, "bee": 5})
    for file in folder.rglob("*.png"):
        file.write_bytes(b"")
    with pytest.raises(GraftError, match=r"broken files +10 of 10"):
        run(folder)
    assert len(evidence(folder)["broken_files"]) == 10


@pytest.mark.parametrize(
    ("counts", "params", "problem", "fix"),
    [
        (
            {"ant": 40, "bee": 3},
            {"max_imbalance": 10},
            "largest class over smallest +13.33 +at most 10",
            "raise",
        ),
        ({"ant": 9, "bee": 3}, {"min_images_per_class": 5}, "smallest class +3 +at least 5", "or lower"),
        (
            {"train/ant": 5, "train/bee": 5, "test/ant": 5, "test/fly": 5},
            {},
            "smallest class +0",
            "add training",
        ),
    ],
)
def test_a_broken_rule_is_named_with_its_fix(
    data_folder: Make, counts: dict[str, int], params: dict[str, Any], problem: str, fix: str
) -> None:
    folder = data_folder(counts)
    with pytest.raises(GraftError, match=problem) as caught:
        run(folder, **params)
    assert fix in caught.value.fix


def test_the_default_digits_pass(tmp_path: Path) -> None:
    import_data("digits", tmp_path / "data")
    summary, _ = run(tmp_path / "data")
    assert (summary["rows"], summary["broken"], summary["duplicates"], summary["leaks"]) == (2688, 0, 0, 0)
    assert summary["near_duplicates"] < 15
    assert summary["counts"]["target"]["test"] == 400


@pytest.mark.photos
def test_ants_and_bees_are_tested_on_their_own_val_folder(tmp_path: Path, shared: Path) -> None:
    with zipfile.ZipFile(shared / "data" / "hymenoptera_256.zip") as photos:
        photos.extractall(tmp_path / "data")
    summary, table = run(tmp_path / "data")
    assert summary["counts"][""]["test"] == 153
    assert all(path.startswith("val/") for path in table.rows.loc[table.rows["split"] == "test", "path"])
    assert summary["counts"][""]["train"] + summary["counts"][""]["val"] == 244
    assert (summary["leaks"], summary["near_duplicates"]) == (0, 0)
    assert "val is the held-out test set" in summary["notes"][0]
