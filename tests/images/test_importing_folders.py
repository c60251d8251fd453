"""Folders of images: three layouts are taken, all else is refused with its fix."""

from __future__ import annotations

import errno
import os
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graft.errors import GraftError
from graft.images.importing import import_data
from graft.images.importing.layout import arrange, class_folders, count


def tree(folder: Path, *names: str) -> Path:
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(name.encode())
    return folder


def names_in(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


LAYOUTS: dict[str, tuple[str, ...]] = {
    "classes": ("cats/1.jpg", "cats/deep/2.jpg", "dogs/1.png"),
    "classes and unlabeled": ("cats/1.jpg", "dogs/1.png", "unlabeled/7.jpg"),
    "splits": ("train/cats/1.jpg", "train/dogs/1.jpg", "test/cats/3.jpg", "unlabeled/7.jpg"),
    "domains": (
        "source/cats/1.jpg",
        "source/dogs/2.jpg",
        "target/train/cats/1.jpg",
        "target/unlabeled/2.jpg",
    ),
    "no target labels": ("source/train/cats/1.jpg", "target/unlabeled/2.jpg"),
    "bad files inside classes": ("cats/1.jpg", "cats/notes.txt", "dogs/animated.gif", "dogs/none"),
    "a class called like a split": ("train/train/1.jpg", "train/bus/1.jpg"),
    "a class whose name means a split elsewhere": ("valid/1.jpg", "invalid/1.jpg"),
}


@pytest.mark.parametrize("names", LAYOUTS.values(), ids=LAYOUTS)
def test_a_known_layout_is_taken_as_it_is(names: tuple[str, ...], tmp_path: Path) -> None:
    source = tree(tmp_path / "mine", *names)
    summary = import_data(str(source), tmp_path / "data")
    assert names_in(tmp_path / "data") == set(names)
    assert summary["files"] == len(names)
    assert summary["notes"] == []
    for name in names:
        assert (tmp_path / "data" / name).read_bytes() == name.encode()


def test_the_summary_counts_by_domain_split_and_class(tmp_path: Path) -> None:
    names = ("source/a/1.jpg", "source/a/2.jpg", "target/test/b/1.jpg", "target/unlabeled/x.jpg")
    summary = import_data(str(tree(tmp_path / "mine", *names)), tmp_path / "data")
    assert summary["counts"] == {
        "source": {"": {"a": 2}},
        "target": {"test": {"b": 1}, "unlabeled": {"": 1}},
    }


def test_files_are_hard_links_and_copies_where_links_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tree(tmp_path / "mine", "a/1.jpg", "b/1.jpg")
    import_data(str(source), tmp_path / "linked")
    assert (tmp_path / "linked/a/1.jpg").samefile(source / "a/1.jpg")

    def no_link(*_: Any) -> None:
        raise OSError(errno.EXDEV, "another disk")

    monkeypatch.setattr(os, "link", no_link)
    import_data(str(source), tmp_path / "copied")
    assert names_in(tmp_path / "copied") == {"a/1.jpg", "b/1.jpg"}
    assert not (tmp_path / "copied/a/1.jpg").samefile(source / "a/1.jpg")


def test_wrappers_clutter_and_other_spellings(tmp_path: Path) -> None:
    source = tree(
        tmp_path / "mine",
        "README.md",
        "pets/LICENSE",
        "pets/.DS_Store",
        "pets/__MACOSX/train/cats/._1.jpg",
        "pets/Train/cats/1.jpg",
        "pets/Train/cats/.ipynb_checkpoints/1.jpg",
        "pets/validation/cats/2.jpg",
        "pets/unlabelled/3.jpg",
    )
    summary = import_data(str(source), tmp_path / "data")
    assert names_in(tmp_path / "data") == {"train/cats/1.jpg", "val/cats/2.jpg", "unlabeled/3.jpg"}
    assert "left out 5 files" in summary["notes"][0]


def test_links_to_files_and_folders_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    elsewhere = tree(tmp_path / "elsewhere", "1.jpg", "2.jpg")
    source = tree(tmp_path / "mine", "b/1.jpg")
    (source / "a").symlink_to(elsewhere)
    (source / "b/2.jpg").symlink_to(elsewhere / "2.jpg")
    (source / "b/round").symlink_to(source)
    import_data(str(source), tmp_path / "data")
    assert names_in(tmp_path / "data") == {"a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg"}
    assert not any(file.is_symlink() for file in (tmp_path / "data").rglob("*"))


REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "empty": ((), "holds no files.*fix: give a folder that holds images"),
    "only clutter": ((".DS_Store",), "holds no files"),
    "loose images": (
        ("1.jpg", "2.PNG"),
        r"loose images \(1.jpg, 2.PNG\).*into a folder named after its class",
    ),
    "loose beside classes": (("cats/1.jpg", "2.jpg"), "loose images.*beside the folders cats"),
    "loose in a split": (("train/1.jpg", "train/cats/2.jpg"), "mine/train holds loose images"),
    "no images": (("README.md",), "no folder of labelled images.*fix: lay it out"),
    "only unlabeled": (("unlabeled/1.jpg",), "no folder of labelled images"),
    "splits beside classes": (
        ("train/cats/1.jpg", "dogs/1.jpg"),
        "dogs beside the splits train.*fix: move these folders into the splits",
    ),
    "one split twice": (
        ("train/a/1.jpg", "val/a/1.jpg", "valid/a/2.jpg"),
        "two folders for one split.*merge",
    ),
    "one domain": (("source/a/1.jpg", "b/1.jpg"), "not just source/ and target/.*exactly these two"),
    "a third domain": (("source/a/1.jpg", "target/a/1.jpg", "more/a/1.jpg"), "not just source/ and target/"),
    "splits below other folders": (
        ("images/train/cats/1.jpg", "boxes/train/1.xml"),
        "boxes, images, and train below that.*fix: lay it out as",
    ),
}


@pytest.mark.parametrize(("names", "message"), REFUSED.values(), ids=REFUSED)
def test_an_unknown_layout_is_refused_with_its_fix(
    names: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    source = tree(tmp_path / "mine", *names)
    with pytest.raises(GraftError, match=f"(?s){message}"):
        import_data(str(source), tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_what_is_no_source_is_refused_with_its_fix(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("hello, this is a text file" * 100)
    sources = {
        str(tmp_path / "absent"): "does not exist.*fix: correct the path, or give one of: digits",
        str(tmp_path / "note.txt"): "neither a zip or tar archive nor Parquet.*fix: give one of: digits",
        "cifar10": "did you mean torchvision:CIFAR10",
        "https://example.org/x.zip": "fix: download it to this machine first",
        "torchvision:CIFAR11": "fix: one of: CIFAR10, CIFAR100, .*MNIST",
    }
    for source, message in sources.items():
        with pytest.raises(GraftError, match=f"(?s){message}"):
            import_data(source, tmp_path / "data")
    with pytest.raises(GraftError, match="only torchvision: uses it"):
        import_data("digits", tmp_path / "data", root=tmp_path)


def test_a_link_to_nothing_is_refused(tmp_path: Path) -> None:
    source = tree(tmp_path / "mine", "a/1.jpg", "b/1.jpg")
    (source / "a/2.jpg").symlink_to(tmp_path / "gone.jpg")
    with pytest.raises(GraftError, match=r"(?s)2.jpg is a link to nothing.*fix: restore"):
        import_data(str(source), tmp_path / "data")


def test_destinations(tmp_path: Path) -> None:
    source = tree(tmp_path / "mine", "a/1.jpg", "b/1.jpg")
    (tmp_path / "empty").mkdir()
    import_data(str(source), tmp_path / "empty")
    with pytest.raises(GraftError, match=r"(?s)not an empty folder.*name another destination, or remove"):
        import_data(str(source), tmp_path / "empty")
    (tmp_path / "file").touch()
    with pytest.raises(GraftError, match="not an empty folder"):
        import_data(str(source), tmp_path / "file")
    with pytest.raises(GraftError, match=r"(?s)lies inside the source.*outside"):
        import_data(str(source), source / "data")


def test_an_interruption_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tree(tmp_path / "mine", "a/1.jpg", "b/1.jpg")
    real = os.link
    done: list[None] = []

    def interrupted(*args: Any) -> None:
        if done:
            raise KeyboardInterrupt
        done.append(real(*args))

    monkeypatch.setattr(os, "link", interrupted)
    with pytest.raises(KeyboardInterrupt):
        import_data(str(source), tmp_path / "out/data")
    assert done
    assert list((tmp_path / "out").iterdir()) == []


def test_class_names_become_folder_names() -> None:
    assert class_folders(["T-shirt/top", "cat", "..a"], "x") == ["T-shirt-top", "cat", "a"]
    with pytest.raises(GraftError, match="share the folder"):
        class_folders(["a/b", "a:b"], "x")
    for bad in ("", "..", "x" * 300, "__MACOSX"):
        with pytest.raises(GraftError, match="names no folder"):
            class_folders(["ok", bad], "x")


_part = st.sampled_from(
    ["train", "val", "test", "unlabeled", "source", "target", "cats", "dogs", "x.jpg", "README"]
)
_paths = st.lists(
    st.lists(_part, min_size=1, max_size=5).map(lambda p: PurePosixPath(*p, "i.png")), min_size=1
)


@given(_paths)
def test_whatever_is_accepted_is_a_data_folder(paths: list[PurePosixPath]) -> None:
    try:
        placed = arrange(paths, "mine")
    except GraftError:
        return
    assert len(set(placed.values())) == len(placed)
    counts = count(placed.values())
    assert set(counts) in ({""}, {"source", "target"})
    for splits in counts.values():
        labelled = set(splits) - {"unlabeled"}
        assert labelled <= {"train", "val", "test"} or labelled == {""}
    assert sum(n for s in counts.values() for c in s.values() for n in c.values()) == len(placed)
    again = arrange(placed.values(), "mine")
    assert all(str(name) == str(again[name]) for name in placed.values())
