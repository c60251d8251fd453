"""The default data set: the same bytes everywhere, nothing shared between its parts."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from graft.errors import GraftError
from graft.files import folder_md5
from graft.images.importing import digits, import_data

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits") / "data"
    import_data("digits", folder)
    return folder


def test_the_bytes_are_those_of_data_dvc(data: Path) -> None:
    (out,) = yaml.safe_load((ROOT / "data.dvc").read_text())["outs"]
    files = [file for file in data.rglob("*") if file.is_file()]
    assert out["path"] == "data"
    assert out["hash"] == "md5"
    assert out["md5"] == f"{folder_md5(data)}.dir"
    assert out["nfiles"] == len(files)
    assert out["size"] == sum(file.stat().st_size for file in files)


def test_dvc_add_computes_the_same_file(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "data")
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "DVC_NO_ANALYTICS": "1"}
    environment["DVC_SITE_CACHE_DIR"] = str(tmp_path / "site")
    for command in (["init", "--no-scm", "--quiet"], ["add", "--quiet", "data"]):
        subprocess.run([sys.executable, "-m", "dvc", *command], cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "data.dvc").read_text() == (ROOT / "data.dvc").read_text()


def test_the_parts_have_their_sizes_and_are_balanced(data: Path) -> None:
    counts = import_data("digits", data)["counts"]
    assert counts["source"][""] == {str(label): 100 for label in range(10)}
    assert counts["target"]["test"] == {str(label): 40 for label in range(10)}
    assert counts["target"]["train"] == {str(label): 10 for label in range(10)}
    assert counts["target"]["unlabeled"] == {"": 1188}


def test_no_digit_is_in_two_parts() -> None:
    _, labels = digits._digits()
    parts: dict[str, set[int]] = {}
    for folder, index, _ in digits._parts(labels):
        parts.setdefault(folder.rstrip("0123456789/"), set()).add(index)
    assert sum(map(len, parts.values())) == len(set().union(*parts.values())) == 1797
    assert all(digits_of_view >= 4 for digits_of_view in _views(labels).values())


def _views(labels: Any) -> dict[int, int]:
    unlabelled = [index for folder, index, _ in digits._parts(labels) if folder.endswith("unlabeled")]
    return {index: unlabelled.count(index) for index in unlabelled}


def test_names_tell_nothing_and_files_are_all_different(data: Path) -> None:
    names = [file.name for file in data.rglob("*.bmp")]
    assert len(names) == len(set(names)) == 2688
    assert {len(name) for name in names} == {20}


def test_every_file_is_an_rgb_bmp_of_32_px(data: Path) -> None:
    for file in sorted(data.rglob("*.bmp"))[::100]:
        with Image.open(file) as image:
            assert (image.format, image.mode, image.size) == ("BMP", "RGB", (32, 32))


def test_again_onto_itself_writes_nothing_and_says_so(data: Path) -> None:
    before = data.stat().st_ctime_ns
    summary = import_data("digits", data)
    assert summary["unchanged"]
    assert "nothing was written" in summary["notes"][0]
    assert data.stat().st_ctime_ns == before


def test_a_changed_folder_is_not_touched(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    shutil.copytree(data, folder)
    file = next(folder.rglob("*.bmp"))
    content = file.read_bytes()
    for change in (lambda: file.write_bytes(b"mine"), file.unlink, lambda: _add(file, content, folder)):
        change()
        before = folder_md5(folder)
        with pytest.raises(GraftError, match="remove this one first"):
            import_data("digits", folder)
        assert folder_md5(folder) == before


def _add(file: Path, content: bytes, folder: Path) -> None:
    file.write_bytes(content)
    (folder / "mine.txt").touch()


def test_another_jpeg_decoder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(digits.PHOTOS_SHA256, "china.jpg", "0" * 64)
    with pytest.raises(GraftError, match=r"china\.jpg .* another JPEG library\n  fix: install Pillow's own"):
        import_data("digits", tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_other_digits_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "DIGITS_SHA256", "0" * 64)
    with pytest.raises(GraftError, match=r"requirements\.txt"):
        import_data("digits", tmp_path / "data")


def test_enlarging_is_bilinear() -> None:
    digit = np.random.default_rng(0).integers(0, 17, (8, 8))
    expected = Image.fromarray((digit * 255 / 16).astype(np.float32)).resize(
        (32, 32), Image.Resampling.BILINEAR
    )
    assert np.abs(digits.enlarge(digit)[:, :, 1] - np.asarray(expected)).max() <= 0.51


@given(st.integers(0, 16))
def test_a_flat_digit_stays_flat(value: int) -> None:
    assert set(np.unique(digits.enlarge(np.full((8, 8), value)))) == {(value * 255 + 8) // 16}


@given(st.integers(0, 2**32 - 1))
def test_bmp_and_blending_lose_nothing(seed: int) -> None:
    random = np.random.default_rng(seed)
    patch, digit = random.integers(0, 256, (2, 5, 8, 3), dtype=np.uint8)
    blended = digits.blend(digit, patch)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(digits.bmp(blended)))), blended)
    assert np.array_equal(blended, abs(patch.astype(int) - digit.astype(int)))


def test_importing_the_package_imports_little() -> None:
    heavy = "{'torch', 'torchvision', 'sklearn', 'pandas', 'pyarrow', 'scipy'} & set(sys.modules)"
    code = f"import sys, graft.images.importing; assert not ({heavy}), {heavy}"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
