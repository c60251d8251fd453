"""The three layouts of a data folder, and every folder that is none of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from graft.errors import GraftError
from graft.images.scanning import Found, scan

Make = Callable[..., Path]


def places(folder: Path) -> dict[tuple[str, str, str | None], int]:
    found: dict[tuple[str, str, str | None], int] = {}
    for file in scan(folder).files:
        key = (file.domain, file.split, file.label)
        found[key] = found.get(key, 0) + 1
    return found


def test_classes_alone(data_folder: Make) -> None:
    folder = data_folder({"ant": 3, "bee/deeper": 2, "unlabeled": 4})
    assert places(folder) == {("", "", "ant"): 3, ("", "", "bee"): 2, ("", "unlabeled", None): 4}
    assert scan(folder).classes == ("ant", "bee")
    assert scan(folder).domains == ("",)


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val"])
def test_splits(data_folder: Make, val: str) -> None:
    folder = data_folder({"train/ant": 2, "train/bee": 2, f"{val}/ant": 1, "test/bee": 1})
    assert places(folder) == {
        ("", "train", "ant"): 2,
        ("", "train", "bee"): 2,
        ("", "val", "ant"): 1,
        ("", "test", "bee"): 1,
    }


@pytest.mark.parametrize("unlabeled", ["unlabeled", "target/unlabeled"])
def test_two_domains(data_folder: Make, unlabeled: str) -> None:
    counts = {"source/ant": 2, "source/bee": 2, "target/train/ant": 2, "target/test/bee": 2, unlabeled: 3}
    folder = data_folder(counts)
    assert places(folder) == {
        ("source", "", "ant"): 2,
        ("source", "", "bee"): 2,
        ("target", "train", "ant"): 2,
        ("target", "test", "bee"): 2,
        ("target", "unlabeled", None): 3,
    }
    assert scan(folder).domains == ("source", "target")


@pytest.mark.parametrize("unlabeled", ["unlabeled", "target/unlabeled"])
def test_a_target_may_have_labels_for_testing_alone(data_folder: Make, unlabeled: str) -> None:
    counts = {"source/ant": 2, "source/bee": 2, "target/test/ant": 2, "target/test/bee": 2, unlabeled: 3}
    assert ("target", "train", "ant") not in places(data_folder(counts))


def test_what_is_hidden_or_beside_the_classes_is_ignored(data_folder: Make) -> None:
    folder = data_folder({"ant": 2, "bee": 2, "__MACOSX/ant": 1, ".cache/x": 1})
    for name in (".DS_Store", "ant/._0000.png", "README.md", "ant/Thumbs.db"):
        (folder / name).write_text("x")
    ignored = [".DS_Store", "README.md", "ant/._0000.png", "ant/Thumbs.db"]
    found = scan(folder)
    assert [name for name in found.ignored if "/0" not in name] == ignored
    assert len(found.files) == 4


def test_stray_files_are_kept_for_judgement(data_folder: Make) -> None:
    folder = data_folder({"ant": 2, "bee": 2})
    (folder / "ant" / "notes.txt").write_text("x")
    (folder / "stray.jpg").write_text("x")
    files = scan(folder).files
    assert Found("ant/notes.txt", "", "", "ant") in files
    assert Found("stray.jpg", "", "", None) in files


@pytest.mark.parametrize(
    ("counts", "problem", "fix"),
    [
        ({}, "is empty", "put images there"),
        ({".": 3}, "holds no class folders", "lay it out as"),
        ({"ant": 3}, "holds one class only: ant", "add another class folder"),
        ({"ant": 3, "bee": 1}, "class 'bee' has 1 image\n", "add images"),
        ({"ant": 3, "bee": 0}, "class 'bee' has no images", "or remove its folder"),
        ({"Ant": 3, "ant": 3}, r"'Ant' \(in Ant\) and 'ant' \(in ant\)", "rename the folders"),
        ({"train/ant": 3, "train/bee": 3, "val/Bee": 3}, r"'bee' \(in train/bee\) and 'Bee'", "rename"),
        (
            {"photos/ant": 3, "photos/bee": 3},
            "the one folder photos, with ant, bee below",
            "photos as the data",
        ),
        ({"source/ant": 3, "source/bee": 3}, "the one folder source", "source as the data folder"),
        ({"train/ant": 3, "train/bee": 3, "ant": 3}, "holds ant beside the splits train", "move these"),
        ({"test/ant": 3, "test/bee": 3}, "holds test but no train folder", "add train/"),
        ({"train/ant": 3, "train/bee": 3, "test": 3}, "test holds no class folders", "to unlabeled/"),
        ({"source/ant": 3, "target/ant": 3, "bee": 3}, "holds bee beside source/ and target/", "keep only"),
        (
            {"source/ant": 3, "source/bee": 3, "target/ant": 3, "target/fly": 3},
            "target/ has classes that source/ has not: fly",
            "add these classes to source/",
        ),
        (
            {"source/ant": 3, "source/bee": 3, "target/ant": 3, "target/bee": 1},
            "'bee' in target/ has 1",
            "add",
        ),
        (
            {"source/ant": 3, "source/bee": 3, "target/test/ant": 3, "target/test/bee": 3},
            "target holds test but no train folder",
            "add train/",
        ),
    ],
)
def test_other_folders_are_refused_with_a_fix(
    data_folder: Make, counts: dict[str, int], problem: str, fix: str
) -> None:
    folder = data_folder(counts)
    folder.mkdir(exist_ok=True)
    with pytest.raises(GraftError, match=problem) as caught:
        scan(folder)
    assert fix in caught.value.fix


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(GraftError, match="nowhere does not exist") as caught:
        scan(tmp_path / "nowhere")
    assert "graft import digits" in caught.value.fix


def test_an_archive_is_to_be_imported_first(tmp_path: Path) -> None:
    (tmp_path / "photos.zip").write_text("x")
    with pytest.raises(GraftError, match="is a file") as caught:
        scan(tmp_path / "photos.zip")
    assert caught.value.fix.startswith("graft import")
