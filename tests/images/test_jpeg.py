"""JPEGs decoded past Pillow have Pillow's pixels, and Pillow's reasons where they are broken."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, ImageOps

from graft.images import decoding
from graft.images.decoding import BrokenImage, decode, to_pixels
from graft.images.preprocessing import Preprocessing

Encode = Callable[..., bytes]
Photo = Callable[..., Image.Image]
MOST = 2  # of 255 that a pixel may differ
often = settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))


@contextlib.contextmanager
def pillow_alone() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "plain_jpeg", lambda content, layout, side=None: None)
        yield


def grainy(photo: Photo, size: tuple[int, int], grain: int) -> Image.Image:
    noise = np.random.default_rng(grain).normal(0, grain, (size[1], size[0], 3))
    return Image.fromarray(np.clip(np.asarray(photo(grain, size)) + noise, 0, 255).astype(np.uint8))


@st.composite
def options(draw: st.DrawFn) -> dict[str, Any]:
    """How a JPEG can be written."""
    exif = Image.Exif()
    orientation = draw(st.sampled_from([None, *range(10)]))
    if orientation is not None:
        exif[0x0112] = orientation
    return {
        "quality": draw(st.integers(1, 100)),
        "subsampling": draw(st.sampled_from(["4:4:4", "4:2:2", "4:2:0"])),
        "progressive": draw(st.booleans()),
        "optimize": draw(st.booleans()),
        "restart_marker_blocks": draw(st.sampled_from([0, 1, 3])),
        "exif": exif,
    }


def written(encoded: Encode, image: Image.Image, how: dict[str, Any]) -> bytes:
    try:
        return encoded(image, "JPEG", **how)
    except OSError:  # Pillow's buffer does not hold every picture at quality 100
        reject()


@often
@given(
    mode=st.sampled_from(["RGB", "RGB", "L", "CMYK"]),
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    grain=st.integers(0, 40),
    how=options(),
)
def test_any_jpeg_has_pillows_pixels(
    photo: Photo, encoded: Encode, mode: str, size: tuple[int, int], grain: int, how: dict[str, Any]
) -> None:
    content = written(encoded, grainy(photo, size, grain).convert(mode), how)
    image = decode(content)
    with pillow_alone():
        expected = decode(content)
    assert (image.mode, image.size) == (expected.mode, expected.size) == ("RGB", expected.size)
    assert np.abs(np.asarray(image, dtype=int) - np.asarray(expected, dtype=int)).max() <= MOST


@often
@given(
    mode=st.sampled_from(["RGB", "L", "CMYK"]),
    size=st.tuples(st.integers(1, 400), st.integers(1, 400)),
    side=st.integers(1, 60),
    how=options(),
)
def test_scaled_decoding_has_pillows_pixels(
    photo: Photo, encoded: Encode, mode: str, size: tuple[int, int], side: int, how: dict[str, Any]
) -> None:
    content = written(encoded, grainy(photo, size, 20).convert(mode), how)
    preprocessing = Preprocessing(side, side)
    pixels = to_pixels(content, preprocessing)
    with pillow_alone():
        expected = to_pixels(content, preprocessing)
    assert np.abs(pixels.astype(int) - expected).max() <= MOST


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("progressive", [False, True])
def test_plain_jpegs_go_past_pillow(
    photo: Photo, encoded: Encode, monkeypatch: pytest.MonkeyPatch, mode: str, progressive: bool
) -> None:
    content = encoded(photo(1, (300, 200)).convert(mode), "JPEG", progressive=progressive)
    expected = ImageOps.exif_transpose(Image.open(decoding.io.BytesIO(content))).convert("RGB")

    def loaded(self: ImageFile.ImageFile) -> None:
        raise AssertionError("Pillow decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", loaded)
    to_pixels(content, Preprocessing(56, 64))
    monkeypatch.undo()
    assert np.abs(np.asarray(decode(content), dtype=int) - np.asarray(expected, dtype=int)).max() <= MOST


def verdict(content: bytes) -> Any:
    """The pixels, or why there are none."""
    try:
        return np.asarray(decode(content, max_pixels=1_000_000), dtype=int)
    except BrokenImage as broken:
        return broken.reason


def same(content: bytes) -> Any:
    """The verdict, which is Pillow's too."""
    found = verdict(content)
    with pillow_alone():
        expected = verdict(content)
    if isinstance(found, str) or isinstance(expected, str):
        assert isinstance(found, str) == isinstance(expected, str), (found, expected)
        assert found == expected
    else:
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= MOST
    return found


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_wherever_it_breaks_off_it_is_broken_for_pillow_too(
    photo: Photo, encoded: Encode, mode: str, progressive: bool
) -> None:
    content = encoded(grainy(photo, (40, 24), 20).convert(mode), "JPEG", progressive=progressive)
    for length in range(0, len(content), 3):
        same(content[:length])
    assert same(content[:-40]) == "truncated"
    for length in range(1, 5):
        same(content[:-length])


@pytest.mark.filterwarnings("ignore::UserWarning")
@often
@given(data=st.data(), progressive=st.booleans())
def test_damage_is_what_it_is_for_pillow(
    photo: Photo, encoded: Encode, data: st.DataObject, progressive: bool
) -> None:
    """Where libjpeg only warns, Pillow bears it, and so do we."""
    content = bytearray(encoded(photo(2), "JPEG", progressive=progressive))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(2, len(content) - 1))] = data.draw(st.integers(0, 255))
    same(bytes(content))


def test_what_follows_the_end_does_not_matter(photo: Photo, encoded: Encode) -> None:
    content = encoded(photo(1), "JPEG")
    found = same(content + b"an appended text")
    assert np.array_equal(found, same(content))


@pytest.mark.photos
def test_real_photographs_have_pillows_pixels(shared: Path) -> None:
    import zipfile

    with zipfile.ZipFile(shared / "data" / "imagenette_1500.zip") as photos:
        names = [name for name in photos.namelist() if name.lower().endswith((".jpg", ".jpeg"))]
        for name in names[::50]:
            assert not isinstance(same(photos.read(name)), str)
