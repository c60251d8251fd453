"""Image files to RGB pixels."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import PIL
import simplejpeg
from PIL import Image, UnidentifiedImageError

from graft.images.jpeg import drafted, may_be_turned, plain_jpeg

if TYPE_CHECKING:
    from graft.images.preprocessing import Preprocessing

T = TypeVar("T")
R = TypeVar("R")

# Another version may round in another way.
DECODERS = (f"Pillow {PIL.__version__}", f"simplejpeg {simplejpeg.__version__}")
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
SIDEWAYS = (5, 6, 7, 8)
HANDFUL = 8  # images that a thread takes at once


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
    return _upright(image, content)


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
    pixels, size = decode_array(content, preprocessing.resize_size)
    return resize_crop(pixels, preprocessing, size=size)


def decode_array(content: bytes, side: int | None = None) -> tuple[np.ndarray, tuple[int, int]]:
    """Decode a photograph to upright RGB, a JPEG no larger than its use needs.

    Args:
        content: The encoded file.
        side: Its short side will be resized to this; None: nothing is known.

    Returns:
        uint8 (H, W, 3), and the (width, height) of the whole photograph.

    Raises:
        BrokenImage: see `decode`.
    """
    if not may_be_turned(content) and (plain := plain_jpeg(content, "RGB", side)):
        return plain
    image = open_image(content)
    width, height = image.size
    if side is not None:
        image.draft(image.mode, drafted(image.size, side))
    sideways = _orientation(image) in SIDEWAYS
    return np.asarray(_upright(image, content, side)), (height, width) if sideways else (width, height)


def resize_crop(
    image: Image.Image | np.ndarray, preprocessing: Preprocessing, *, size: tuple[int, int] | None = None
) -> np.ndarray:
    """Resize the short side of an RGB image to R = `resize_size`, and crop the centre.

    torch resizes 8-bit images with Pillow's filter at two to five times its speed, and gives the same
    on every CPU. Each rounds the weights in its own way: on photographs less than one value in a hundred
    differs, by 1.

    Args:
        image: 8-bit RGB, or uint8 (H, W, 3).
        preprocessing: Sizes and interpolation.
        size: (width, height) that decide the aspect ratio; the image's own by default.

    Returns:
        uint8 (3, R, R).
    """
    pixels = np.asarray(image)
    given = (pixels.shape[1], pixels.shape[0])
    side, crop = preprocessing.resize_size, preprocessing.input_size
    width, height = size or given
    short = min(width, height)
    resized = (side * width // short, side * height // short)
    # Both crops together must round like one crop of S from the whole, as torchvision does it.
    left, top = (round((length - crop) / 2) - round((side - crop) / 2) for length in resized)
    planes = pixels.transpose(2, 0, 1) if given == resized else _resized(pixels, resized, preprocessing)
    return np.ascontiguousarray(planes[:, top : top + side, left : left + side])


def _resized(pixels: np.ndarray, size: tuple[int, int], preprocessing: Preprocessing) -> np.ndarray:
    """uint8 (H, W, 3) to (3, height, width)."""
    import torch  # takes seconds, and looking at files needs none of it
    from torch.nn.functional import interpolate

    batch = torch.from_numpy(np.require(pixels, requirements=["C", "W"])).permute(2, 0, 1).unsqueeze(0)
    made = interpolate(batch, size=size[::-1], mode=preprocessing.interpolation, antialias=True)
    planes: np.ndarray = made[0].numpy()
    return planes


@contextmanager
def threads() -> Iterator[ThreadPoolExecutor]:
    """A pool with a thread per core; what is not begun when the body is left (by Ctrl-C, say) never is."""
    pool = ThreadPoolExecutor(workers())
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def shared_out(pool: ThreadPoolExecutor, work: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """`pool.map` by handfuls: to hand over each item alone takes a tenth of decoding a small photograph."""

    def some(handful: Sequence[T]) -> list[R]:
        return [work(item) for item in handful]

    handfuls = [items[start : start + HANDFUL] for start in range(0, len(items), HANDFUL)]
    return chain.from_iterable(pool.map(some, handfuls))


def workers() -> int:
    """Threads that decode: one per core this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _upright(image: Image.Image, content: bytes, side: int | None = None) -> Image.Image:
    """An opened image as 8-bit RGB, turned as its EXIF says."""
    try:
        plain = plain_jpeg(content, "RGBX", side)  # as Pillow stores RGB, which makes the copy cheap
        if plain and plain[0].shape[1::-1] == image.size:
            rgb = Image.frombytes("RGB", image.size, plain[0].data, "raw", "RGBX")
        else:
            rgb = _to_rgb(image)
    except BrokenImage:
        raise
    except Exception as error:  # decoders meet damaged data with errors of any kind
        reason = "truncated" if "truncated" in str(error).lower() else f"damaged: {error}"
        raise BrokenImage(reason) from None
    turn = UPRIGHT.get(_orientation(image))
    return rgb if turn is None else rgb.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    image.load()
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


def _is_text(content: bytes) -> bool:
    try:
        return content[:512].decode("utf-8", errors="strict").isprintable() or b"\n" in content[:512]
    except UnicodeDecodeError:
        return False
