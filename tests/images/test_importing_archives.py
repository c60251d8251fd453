"""Archives: what is safe is imported, what is not is refused by name before anything is written."""

from __future__ import annotations

import io
import os
import struct
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.errors import GraftError
from graft.images.importing import archive, import_data

GOOD = {"train/cats/1.jpg": b"one", "train/dogs/1.jpg": b"two", "test/cats/2.jpg": b"three" * 400}


def write_zip(path: Path, files: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in files.items():
            info = zipfile.ZipInfo("placeholder")
            info.filename = info.orig_filename = name
            info.compress_type = zipfile.ZIP_DEFLATED
            packed.writestr(info, content)
    return path


def write_tar(path: Path, files: Mapping[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as packed:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            packed.addfile(info, io.BytesIO(content))
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


WRITERS: dict[str, Callable[[Path, Mapping[str, bytes]], Path]] = {
    "x.zip": write_zip,
    "x.tar": write_tar,
    "x.tar.gz": lambda path, files: write_tar(path, files, "w:gz"),
    "x.tar.bz2": lambda path, files: write_tar(path, files, "w:bz2"),
    "x.tar.xz": lambda path, files: write_tar(path, files, "w:xz"),
    "no-suffix": lambda path, files: write_tar(path, files, "w:gz"),
}
both = pytest.mark.parametrize("write", [write_zip, write_tar], ids=["zip", "tar"])


@pytest.mark.parametrize(("name", "write"), WRITERS.items(), ids=WRITERS)
def test_an_archive_is_unpacked(name: str, write: Callable[..., Path], tmp_path: Path) -> None:
    summary = import_data(str(write(tmp_path / name, GOOD)), tmp_path / "data")
    assert contents(tmp_path / "data") == GOOD
    assert summary["counts"][""]["test"] == {"cats": 1}
    assert all((tmp_path / "data" / file).stat().st_mode & 0o644 == 0o644 for file in GOOD)


@both
def test_one_folder_around_it_and_clutter_are_taken_off(write: Callable[..., Path], tmp_path: Path) -> None:
    wrapped = {f"./pets/{name}": content for name, content in GOOD.items()}
    clutter = {"__MACOSX/pets/._x": b"", "pets/.DS_Store": b"", "pets/train/Thumbs.db": b""}
    import_data(str(write(tmp_path / "x", wrapped | clutter)), tmp_path / "data")
    assert contents(tmp_path / "data") == GOOD


def test_windows_separators_are_understood(tmp_path: Path) -> None:
    write_zip(tmp_path / "x", {name.replace("/", "\\"): content for name, content in GOOD.items()})
    import_data(str(tmp_path / "x"), tmp_path / "data")
    assert contents(tmp_path / "data") == GOOD


ESCAPING = [
    "../evil.jpg",
    "train/cats/../../../evil.jpg",
    "/tmp/evil.jpg",
    "//host/evil.jpg",
    "C:/evil.jpg",
    "C:evil.jpg",
    "..\\evil.jpg",
    "\\evil.jpg",
    "train\\..\\..\\evil.jpg",
    "../.DS_Store",
]


@both
@pytest.mark.parametrize("name", ESCAPING)
def test_names_that_lead_outside_are_refused(write: Callable[..., Path], name: str, tmp_path: Path) -> None:
    path = write(tmp_path / "x", {**GOOD, name: b"evil"})
    with pytest.raises(
        GraftError, match=r"(?s)(evil|DS_Store).*nothing was unpacked.*fix: pack the images again"
    ):
        import_data(str(path), tmp_path / "out/data")
    assert contents(tmp_path).keys() == {"x"}


_piece = st.text(
    st.characters(exclude_characters="/\\\x00", exclude_categories=["Cs"]), min_size=1, max_size=8
)
_slash = st.sampled_from(["/", "\\"])


@st.composite
def _escaping(draw: st.DrawFn) -> str:
    """A name that is absolute, or has ".." as one of its parts."""
    slash = draw(_slash)
    parts = draw(st.lists(st.one_of(_piece, st.just("train")), min_size=1, max_size=4))
    how = draw(st.sampled_from(["absolute", "drive", "parent"]))
    if how == "parent":
        parts.insert(draw(st.integers(0, len(parts) - 1)), "..")
    prefix = {"absolute": slash, "drive": draw(st.sampled_from(["C:", "d:\\"])), "parent": ""}[how]
    return prefix + slash.join(parts)


@settings(max_examples=60, deadline=None)
@given(name=_escaping(), write=st.sampled_from([write_zip, write_tar]), last=st.booleans())
def test_an_escaping_name_is_always_refused_and_nothing_is_written(
    name: str, write: Callable[..., Path], last: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder) / "a/b/c/d"
        here.mkdir(parents=True)
        files = {**GOOD, name: b"evil"} if last else {name: b"evil", **GOOD}
        path = write(here / "x", files)
        with pytest.raises(GraftError):
            import_data(str(path), here / "data")
        assert [f for f in Path(folder).rglob("*") if f.is_file()] == [path]


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.text("ab./\\:\x00é\udcff", max_size=12), st.just(b"x"), min_size=1, max_size=4))
def test_any_names_at_all_stay_inside(files: dict[str, bytes]) -> None:
    members = [archive.Member(name, 1, "file") for name in files]
    try:
        paths = archive.checked(members, 1, archive.Limits(), "x")
    except GraftError:
        return
    for path in paths:
        assert not path.is_absolute()
        assert ".." not in path.parts
        assert path.parts


def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path) -> None:
    kinds = {
        tarfile.SYMTYPE: "link",
        tarfile.LNKTYPE: "link",
        tarfile.CHRTYPE: "device",
        tarfile.FIFOTYPE: "device",
    }
    for number, (kind, called) in enumerate(kinds.items()):
        path = write_tar(tmp_path / f"{number}.tar", GOOD)
        with tarfile.open(path, "a") as packed:
            info = tarfile.TarInfo("train/cats/9.jpg")
            info.type, info.linkname = kind, "/etc/passwd"
            packed.addfile(info)
        with pytest.raises(GraftError, match=f"'train/cats/9.jpg' is a {called}; nothing was unpacked"):
            import_data(str(path), tmp_path / "data")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(("mode", "called"), [(0o120777, "link"), (0o020666, "device"), (0o010666, "device")])
def test_links_and_devices_in_a_zip_are_refused(mode: int, called: str, tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", GOOD)
    with zipfile.ZipFile(path, "a") as packed:
        info = zipfile.ZipInfo("train/cats/9.jpg")
        info.create_system, info.external_attr = 3, mode << 16
        packed.writestr(info, "/etc/passwd")
    with pytest.raises(GraftError, match=f"'train/cats/9.jpg' is a {called}"):
        import_data(str(path), tmp_path / "data")


@both
def test_bombs_are_refused_by_each_limit(write: Callable[..., Path], tmp_path: Path) -> None:
    path = write(tmp_path / "x", GOOD)
    for limits, message in {
        archive.Limits(files=2): "more than 2 members",
        archive.Limits(file_size=1500): "'test/cats/2.jpg'.*larger than any image",
        archive.Limits(size=2000): "unpacks to more than",
        archive.Limits(ratio=0.001, ratio_from=100): "times its size",
    }.items():
        with pytest.raises(GraftError, match=f"(?s){message}.*decompression bomb.*unpack it yourself"):
            archive.read(path, limits)


def test_a_real_bomb_is_refused_quickly(tmp_path: Path) -> None:
    class Zeros(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            return bytes(size)

    path = tmp_path / "bomb.tar.gz"
    with tarfile.open(path, "w:gz", compresslevel=1) as packed:
        for number in range(3):
            info = tarfile.TarInfo(f"train/a/{number}.bmp")
            info.size = 100 * 2**20
            packed.addfile(info, Zeros())
    with pytest.raises(GraftError, match="unpacks to more than 100 times its size"):
        import_data(str(path), tmp_path / "data")


def test_a_forged_header_cannot_fill_the_memory(tmp_path: Path) -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 8 * 2**40  # an extended header of 8 TiB
    (tmp_path / "x.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(GraftError):
        import_data(str(tmp_path / "x.tar"), tmp_path / "data")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@both
def test_what_contradicts_itself_is_refused(write: Callable[..., Path], tmp_path: Path) -> None:
    inside = write(tmp_path / "inside", {**GOOD, "train/cats/1.jpg/2.jpg": b"x"})
    with pytest.raises(GraftError, match="lies inside another file"):
        import_data(str(inside), tmp_path / "data")
    twice = write(tmp_path / "twice", {**GOOD, "./train/cats/1.jpg": b"x"})
    with pytest.raises(GraftError, match=r"(?s)twice.*each file once"):
        import_data(str(twice), tmp_path / "data")


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz", "x.tar.bz2", "x.tar.xz"])
def test_a_damaged_archive_is_named_and_leaves_nothing(name: str, tmp_path: Path) -> None:
    noise = {f"train/a/{number}.jpg": os.urandom(20_000) for number in range(5)}
    whole = WRITERS[name](tmp_path / name, noise).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(len(whole) * 0.55)])
    with pytest.raises(GraftError, match=r"(?s)damaged.*fix: download"):
        import_data(str(tmp_path / name), tmp_path / "out/data")
    assert contents(tmp_path).keys() == {name}


def test_a_flipped_byte_in_a_zip_is_noticed(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", {f"train/a/{n}.jpg": os.urandom(20_000) for n in range(5)})
    content = bytearray(path.read_bytes())
    content[50_000] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(GraftError, match="damaged"):
        import_data(str(path), tmp_path / "out/data")
    assert contents(tmp_path).keys() == {"x.zip"}


def test_an_encrypted_zip_is_named(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", GOOD)
    content = bytearray(path.read_bytes())
    central = content.index(b"PK\x01\x02")
    struct.pack_into("<H", content, central + 8, 1)  # the flag of encryption
    path.write_bytes(content)
    with pytest.raises(GraftError, match=r"(?s)is encrypted.*with its password"):
        import_data(str(path), tmp_path / "data")


def test_a_zip_of_something_else_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.npz", {"train_images.npy": b"x"})
    with pytest.raises(GraftError, match="no folder of labelled images"):
        import_data(str(path), tmp_path / "data")


@pytest.mark.photos
def test_the_ants_and_bees(shared: Path, tmp_path: Path) -> None:
    summary = import_data(str(shared / "data/hymenoptera_256.zip"), tmp_path / "data")
    counts = summary["counts"][""]
    assert {split: sum(classes.values()) for split, classes in counts.items()} == {"train": 244, "val": 153}
    assert set(counts["train"]) == {"ants", "bees"}
    assert set(counts["val"]) == {"ants", "bees"}
    assert summary["notes"] == []
