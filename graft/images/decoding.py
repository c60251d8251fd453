"""Image files to RGB pixels, and a table's images to one tensor."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain

import numpy as np
import pandas as pd
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from graft.errors import GraftError
from graft.images.preprocessing import Preprocessing
from graft.images.table import ImageTable
from graft.progress import track

FORMATS = ("JPEG", "PNG", "BMP", "PPM", "TIFF", "WEBP")  # no other decoder of Pillow is ever run
DEEP = ("I", "I;16", "I;16L", "I;16B", "I;16N")  # modes of 16-bit greyscale files
ORIENTATION = 0x0112  # EXIF tag
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
CHUNK = 1024  # encoded images held in memory at once


class BrokenImage(Exception):
    """A file that is no usable image; `reason` says why in a few words."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def decode(content: bytes, *, min_side: int = 1, max_pixels: int = 64_000_000) -> Image.Image:
    """Decode a photograph to 8-bit RGB, upright.

    EXIF rotation is applied; CMYK, palette and greyscale are converted; 16 bits are scaled to 8;
    transparent pixels are laid on white. Of an animation or a multi-page file, the first picture.

    Args:
        content: The encoded file.
        min_side: Smallest shorter side accepted, pixels.
        max_pixels: Largest width x height accepted; checked before anything is decoded.

    Raises:
        BrokenImage: not an image of a known format, truncated, too small or too large.
    """
    image = open_image(content)
    check_size(image.size, min_side=min_side, max_pixels=max_pixels)
    return _pixels_of(image)


def open_image(content: bytes) -> Image.Image:
    """Read the header only: format, mode and size are known, no pixel is decoded.

    Raises:
        BrokenImage: zero bytes, a GIF, or not an image of a known format.
    """
    if not content:
        raise BrokenImage("zero bytes")
    if content[:6] in (b"GIF87a", b"GIF89a"):
        raise BrokenImage("GIF, which is not a photo format")
    try:
        return Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError:
        raise BrokenImage("text, not an image" if _is_text(content) else "not an image") from None
    except Image.DecompressionBombError:
        raise BrokenImage(f"huge: more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels") from None
    except Exception as error:  # decoders meet damaged headers with errors of any kind
        raise BrokenImage(f"damaged: {error}") from None


def check_size(size: tuple[int, int], *, min_side: int, max_pixels: int) -> None:
    """Refuse an image that is too small or too large.

    Raises:
        BrokenImage: with the size and the bound.
    """
    width, height = size
    if min(width, height) < min_side:
        raise BrokenImage(f"too small: {width} x {height}, and min_side is {min_side}")
    if width * height > max_pixels:
        raise BrokenImage(f"huge: {width} x {height}, and max_pixels is {max_pixels:,}")


def to_pixels(content: bytes, preprocessing: Preprocessing) -> np.ndarray:
    """Decode and resize: the short side to R = `resize_size` with antialias, then the centre R x R.

    `preprocessing.centre` of the result is what torchvision's Resize(R) and CenterCrop(S) give.

    Returns:
        uint8 (3, R, R).

    Raises:
        BrokenImage: see `decode`.
    """
    image = open_image(content)
    width, height = image.size
    # A JPEG can be decoded at 1/2, 1/4 or 1/8 size; twice the wanted size is left to the antialias.
    scale = 2 * preprocessing.resize_size / min(width, height)
    image.draft(image.mode, (int(width * scale) + 1, int(height * scale) + 1))
    return resize_crop(_pixels_of(image), preprocessing, size=_upright_size(image, (width, height)))


def resize_crop(
    image: Image.Image, preprocessing: Preprocessing, *, size: tuple[int, int] | None = None
) -> np.ndarray:
    """Resize the short side of an RGB image to R = `resize_size`, and crop the centre.

    Args:
        image: 8-bit RGB.
        preprocessing: Sizes and interpolation.
        size: (width, height) that decide the aspect ratio; the image's own by default.

    Returns:
        uint8 (3, R, R).
    """
    side, crop = preprocessing.resize_size, preprocessing.input_size
    width, height = size or image.size
    short = min(width, height)
    resized = (side * width // short, side * height // short)
    # Both crops together must round like one crop of S from the whole, as torchvision does it.
    left, top = (round((length - crop) / 2) - round((side - crop) / 2) for length in resized)
    if image.size != resized:
        image = image.resize(resized, RESAMPLING[preprocessing.interpolation])
    square = np.asarray(image.crop((left, top, left + side, top + side)))
    return np.ascontiguousarray(square.transpose(2, 0, 1))


@dataclass(frozen=True)
class Images:
    """Images in memory, ready for a network.

    Attributes:
        pixels: uint8 (N, 3, R, R).
        labels: int64 (N,); -1 where there is none.
        rows: sha256, path, domain and split, N rows in the same order.
    """

    pixels: Tensor
    labels: Tensor
    rows: pd.DataFrame

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor | np.ndarray | slice) -> Images:
        """The images at these positions, or where a mask is true."""
        at = np.arange(len(self))[index if isinstance(index, slice) else np.asarray(index)]
        rows = self.rows.iloc[at].reset_index(drop=True)
        if isinstance(index, slice):  # views, not copies
            return Images(self.pixels[index], self.labels[index], rows)
        return Images(self.pixels[torch.from_numpy(at)], self.labels[torch.from_numpy(at)], rows)


def load_images(table: ImageTable, index: pd.Index, preprocessing: Preprocessing) -> Images:
    """Decode rows of a table into one tensor, in threads (Pillow decodes outside Python's lock).

    Args:
        table: The image table.
        index: Rows, as `table.select` gives them.
        preprocessing: Decides the size of the pixels, R.

    Raises:
        GraftError: an image cannot be decoded any more.
    """
    side = preprocessing.resize_size
    pixels = np.empty((len(index), 3, side, side), np.uint8)
    rows = table.rows.loc[index]
    with threads() as pool:
        chunks = (index[start : start + CHUNK] for start in range(0, len(index), CHUNK))
        decoded = chain.from_iterable(_decode_chunk(pool, table, chunk, preprocessing) for chunk in chunks)
        for position, image in enumerate(track(decoded, "decoding", total=len(index), unit="images")):
            pixels[position] = image
    facts = rows[["sha256", "path", "domain", "split"]].reset_index(drop=True)
    return Images(torch.from_numpy(pixels), torch.tensor(rows["label"].to_numpy()), facts)


@contextmanager
def threads() -> Iterator[ThreadPoolExecutor]:
    """A pool with a thread per core; what is not begun when the body is left (by Ctrl-C, say) never is."""
    pool = ThreadPoolExecutor(workers())
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def workers() -> int:
    """Threads that decode: one per core this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _decode_chunk(
    pool: ThreadPoolExecutor, table: ImageTable, chunk: pd.Index, preprocessing: Preprocessing
) -> Iterator[np.ndarray]:
    def decoded(item: tuple[bytes, str]) -> np.ndarray:
        try:
            return to_pixels(item[0], preprocessing)
        except BrokenImage as broken:
            problem = f"{item[1]} in the image table {table.path} cannot be decoded: {broken.reason}"
            raise GraftError(problem, "run data_validation again") from None

    return pool.map(decoded, zip(table.contents(chunk), table.rows.loc[chunk, "path"], strict=True))


def _pixels_of(image: Image.Image) -> Image.Image:
    try:
        image.load()
        rgb = _to_rgb(image)
    except BrokenImage:
        raise
    except Exception as error:  # decoders meet damaged data with errors of any kind
        reason = "truncated" if "truncated" in str(error).lower() else f"damaged: {error}"
        raise BrokenImage(reason) from None
    turn = UPRIGHT.get(_orientation(image))
    return rgb if turn is None else rgb.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in DEEP:
        return Image.fromarray(_to_8_bits(np.asarray(image))).convert("RGB")
    if image.mode == "F":
        raise BrokenImage("floating-point pixels")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _to_8_bits(values: np.ndarray) -> np.ndarray:
    if values.min() < 0 or values.max() > 65535:
        raise BrokenImage("32-bit pixels")
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # a damaged EXIF block spoils no pixel
        return 1


def _upright_size(image: Image.Image, size: tuple[int, int]) -> tuple[int, int]:
    return (size[1], size[0]) if _orientation(image) in (5, 6, 7, 8) else size


def _is_text(content: bytes) -> bool:
    try:
        return content[:512].decode("utf-8", errors="strict").isprintable() or b"\n" in content[:512]
    except UnicodeDecodeError:
        return False
