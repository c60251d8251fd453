"""Every kind of image file becomes upright 8-bit RGB, or is called broken with a reason."""

from __future__ import annotations

import contextlib
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

from graft.images.decoding import BrokenImage, decode, threads, to_pixels
from graft.images.preprocessing import Preprocessing

Encode = Callable[..., bytes]
Photo = Callable[..., Image.Image]


def difference(first: Any, second: Any) -> float:
    return float(np.abs(np.asarray(first, dtype=int) - np.asarray(second, dtype=int)).mean())


@pytest.mark.parametrize(
    ("mode", "kind", "options", "most"),
    [
        ("RGB", "PNG", {}, 0),
        ("RGB", "BMP", {}, 0),
        ("RGB", "PPM", {}, 0),
        ("RGB", "TIFF", {}, 0),
        ("RGB", "WEBP", {"lossless": True}, 0),
        ("RGB", "JPEG", {"quality": 95}, 3),
        ("CMYK", "JPEG", {"quality": 95}, 8),
        ("P", "PNG", {}, 20),
        ("RGBA", "PNG", {}, 0),
    ],
)
def test_colour_files_keep_their_colours(
    photo: Photo, encoded: Encode, mode: str, kind: str, options: dict[str, Any], most: float
) -> None:
    image = decode(encoded(photo(1).convert(mode), kind, **options))
    assert (image.mode, image.size) == ("RGB", (48, 32))
    assert difference(image, photo(1)) <= most


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_grey_files_become_grey_rgb(photo: Photo, encoded: Encode, mode: str) -> None:
    expected = photo(1).convert(mode).convert("L").convert("RGB")
    assert difference(decode(encoded(photo(1).convert(mode))), expected) == 0


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bits_are_scaled_to_8(encoded: Encode, kind: str) -> None:
    deep = np.array([[0, 257 * 10, 65535], [128, 129, 257 * 200]], np.uint16).repeat(8, 0).repeat(8, 1)
    pixels = np.asarray(decode(encoded(Image.fromarray(deep), kind)))
    assert pixels[::8, ::8, 0].tolist() == [[0, 10, 255], [0, 1, 200]]
    assert (pixels[..., 0] == pixels[..., 2]).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparent_pixels_are_white(encoded: Encode, mode: str) -> None:
    image = Image.new("LA", (16, 16), (0, 0)) if mode == "LA" else Image.new("RGBA", (16, 16), (90, 0, 0, 0))
    content = encoded(image.convert("P") if mode == "PA" else image)
    assert np.asarray(decode(content)).min() == 255


def test_exif_rotation_is_applied(photo: Photo, encoded: Encode) -> None:
    upright = photo(1)
    for orientation, turn in [(3, Image.Transpose.ROTATE_180), (6, Image.Transpose.ROTATE_90)]:
        exif = Image.Exif()
        exif[0x0112] = orientation
        content = encoded(upright.transpose(turn), "JPEG", exif=exif, quality=95)
        assert difference(decode(content), upright) < 3
        square = to_pixels(content, Preprocessing(16, 20))
        assert difference(square, to_pixels(encoded(upright), Preprocessing(16, 20))) < 3


def huge_png(width: int, height: int) -> bytes:
    """A file of a few bytes that says it is huge."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "zero bytes"),
        (b"notes about ants\n", "text, not an image"),
        (bytes(range(256)), "not an image"),
        (b"GIF89a" + bytes(100), "GIF, which is not a photo format"),
        (huge_png(9000, 9000), "huge: 9000 x 9000, and max_pixels is 64,000,000"),
        (huge_png(60000, 60000), "huge: more than"),
    ],
)
def test_what_is_no_image_says_why(content: bytes, reason: str) -> None:
    with pytest.raises(BrokenImage) as caught:
        decode(content)
    assert caught.value.reason.startswith(reason)


@pytest.mark.parametrize(
    ("kind", "options"), [("JPEG", {}), ("PNG", {}), ("WEBP", {}), ("BMP", {}), ("TIFF", {})]
)
def test_truncated_files_are_broken(photo: Photo, encoded: Encode, kind: str, options: Any) -> None:
    content = encoded(photo(1, (200, 150)), kind, **options)
    with pytest.raises(BrokenImage, match=r"truncated|damaged|not an image"):
        decode(content[: len(content) * 2 // 3])


def test_a_truncated_photo_is_called_truncated(photo: Photo, encoded: Encode) -> None:
    content = encoded(photo(1, (200, 150)), "JPEG")
    with pytest.raises(BrokenImage, match=r"^truncated$"):
        decode(content[: len(content) * 2 // 3])


def test_one_pixel_is_too_small(encoded: Encode) -> None:
    content = encoded(Image.new("RGB", (1, 1)))
    assert decode(content).size == (1, 1)
    with pytest.raises(BrokenImage, match="too small: 1 x 1, and min_side is 8"):
        decode(content, min_side=8)


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_never_raises_anything_else(photo: Photo, encoded: Encode, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["JPEG", "PNG", "TIFF", "BMP", "WEBP"]))
    content = bytearray(encoded(photo(2), kind))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(BrokenImage):
        assert decode(bytes(content), max_pixels=1_000_000).mode == "RGB"


def by_torchvision(image: Image.Image, preprocessing: Preprocessing) -> torch.Tensor:
    mode = v2.InterpolationMode(preprocessing.interpolation)
    resize = v2.Resize(preprocessing.resize_size, interpolation=mode, antialias=True)
    cropped = v2.CenterCrop(preprocessing.input_size)(resize(image))
    return torch.from_numpy(np.asarray(cropped).copy()).permute(2, 0, 1)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    size=st.tuples(st.integers(9, 90), st.integers(9, 90)),
    crop=st.integers(5, 24),
    margin=st.integers(0, 9),
    interpolation=st.sampled_from(["bilinear", "bicubic"]),
)
def test_preprocessing_is_torchvisions(
    photo: Photo, encoded: Encode, size: tuple[int, int], crop: int, margin: int, interpolation: str
) -> None:
    preprocessing = Preprocessing(crop, crop + margin, interpolation=interpolation)
    pixels = torch.from_numpy(to_pixels(encoded(photo(3, size)), preprocessing))
    assert pixels.shape == (3, crop + margin, crop + margin)
    expected = by_torchvision(photo(3, size), preprocessing)
    found = preprocessing.centre(pixels[None])[0]
    assert (found.int() - expected.int()).abs().max() <= 2  # each rounds weights and twice pixels


@pytest.mark.parametrize("size", [(1000, 700), (700, 1000), (1003, 501)])
def test_draft_mode_changes_next_to_nothing(photo: Photo, encoded: Encode, size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).normal(0, 12, (size[1], size[0], 3))
    grainy = Image.fromarray(np.clip(np.asarray(photo(4, size)) + noise, 0, 255).astype(np.uint8))
    content = encoded(grainy, "JPEG", quality=92)
    preprocessing = Preprocessing(56, 64)
    pixels = preprocessing.centre(torch.from_numpy(to_pixels(content, preprocessing))[None])[0]
    assert difference(pixels, by_torchvision(decode(content), preprocessing)) < 0.6


@pytest.mark.photos
def test_real_photos_are_preprocessed_as_torchvision_does(shared: Path) -> None:
    import zipfile

    preprocessing = Preprocessing(96, 110)
    with zipfile.ZipFile(shared / "data" / "hymenoptera_256.zip") as photos:
        contents = [photos.read(name) for name in photos.namelist()[:40]]
    for content in contents:
        pixels = preprocessing.centre(torch.from_numpy(to_pixels(content, preprocessing))[None])[0]
        assert difference(pixels, by_torchvision(decode(content), preprocessing)) < 1


def test_leaving_early_drops_what_is_not_begun() -> None:
    begun: list[int] = []

    def work(number: int) -> int:
        begun.append(number)
        time.sleep(0.01)
        return number

    def interrupted() -> None:
        with threads() as pool:
            for _ in pool.map(work, range(10_000)):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(begun) < 1000
