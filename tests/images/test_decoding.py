"""Every kind of image file becomes upright 8-bit RGB, or is called broken with a reason."""

from __future__ import annotations

import contextlib
import hashlib
import struct
import time
import zlib
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
from torchvision.transforms import v2

from graft.errors import GraftError
from graft.images.decoding import BrokenImage, Images, decode, load_images, threads, to_pixels
from graft.images.preprocessing import Preprocessing
from graft.images.table import read_table, write_table

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
    assert torch.equal(preprocessing.centre(pixels[None])[0], expected)


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


def small_table(folder: Path, contents: list[bytes]) -> Any:
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
    write_table(folder, records, classes=["ant", "bee"], data_md5="")
    return read_table(folder)


def test_images_are_loaded_in_the_order_asked(tmp_path: Path, photo: Photo, encoded: Encode) -> None:
    contents = [encoded(photo(seed)) for seed in range(7)]
    table = small_table(tmp_path / "images", contents)
    preprocessing = Preprocessing(16, 20)
    images = load_images(table, pd.Index([6, 0, 3]), preprocessing)
    assert (len(images), images.labels.tolist()) == (3, [0, 0, 1])
    assert images.pixels.dtype == torch.uint8
    assert images.labels.dtype == torch.int64
    for pixels, row in zip(images.pixels, [6, 0, 3], strict=True):
        assert np.array_equal(pixels.numpy(), to_pixels(contents[row], preprocessing))
    assert images.rows["path"].tolist() == ["6.png", "0.png", "3.png"]
    assert list(images.rows) == ["sha256", "path", "domain", "split"]
    assert len(load_images(table, pd.Index([], dtype=int), preprocessing)) == 0


@pytest.mark.parametrize(
    "index", [slice(1, 3), torch.tensor([1, 2]), np.array([1, 2]), torch.tensor([False, True, True, False])]
)
def test_images_can_be_indexed(index: Any) -> None:
    rows = pd.DataFrame({"sha256": list("abcd")})
    images = Images(torch.arange(4).view(4, 1, 1, 1), torch.arange(4), rows)[index]
    assert images.labels.tolist() == images.pixels.flatten().tolist() == [1, 2]
    assert images.rows["sha256"].to_dict() == {0: "b", 1: "c"}


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


def test_a_table_that_rotted_is_named(tmp_path: Path, photo: Photo, encoded: Encode) -> None:
    table = small_table(tmp_path / "images", [encoded(photo(0)), b"rotten"])
    with pytest.raises(GraftError, match=r"1\.png .*cannot be decoded: text") as caught:
        load_images(table, table.select(), Preprocessing(16, 20))
    assert "run data_validation again" in caught.value.fix
