"""The fast way to a plain JPEG's pixels: libjpeg-turbo on the whole file at once, without Pillow."""

from __future__ import annotations

from typing import Literal

import numpy as np
from PIL import Image
from simplejpeg import decode_jpeg, decode_jpeg_header

Size = tuple[int, int]  # width and height, pixels

_START = b"\xff\xd8\xff"
_SAY_TURNED = (b"Exif\0\0", b"http://ns.adobe.com/xap/")  # what stands before an orientation
_SCALES = (8, 4, 2)  # the fast ones; a JPEG can be decoded at one part in so many of its size


def may_be_turned(content: bytes) -> bool:
    """Whether a JPEG may say that it is to be turned; only a parser knows."""
    return any(mark in content for mark in _SAY_TURNED)


def plain_jpeg(
    content: bytes, layout: Literal["RGB", "RGBX"], side: int | None = None
) -> tuple[np.ndarray, Size] | None:
    """Decode a JPEG as it is stored, not turned.

    The pixels are Pillow's own: both use libjpeg-turbo with the same transform and upsampling.

    Args:
        content: The encoded file.
        layout: Three bytes a pixel, or a fourth that means nothing.
        side: Of what it is for; decoded is as small a picture as `drafted` allows. None: all of it.

    Returns:
        uint8 (H, W, 3 or 4), and the size of the whole. None where Pillow has to look: another format,
        CMYK, too many pixels, or anything wrong with the file, so that Pillow finds it broken or bears it.
    """
    if not content.startswith(_START):
        return None
    try:
        height, width, colours, _ = decode_jpeg_header(content)
        if colours not in ("RGB", "YCbCr", "Gray") or width * height > (Image.MAX_IMAGE_PIXELS or 0):
            return None
        wide, high = _scaled((width, height), side)
        pixels = decode_jpeg(content, layout, min_width=wide, min_height=high)
    except Exception:  # warnings of libjpeg are errors here
        return None
    return (pixels, (width, height)) if pixels.shape[:2] == (high, wide) else None


def drafted(size: Size, side: int) -> Size:
    """How small a JPEG may be decoded: twice the wanted size is left to the antialias."""
    scale = 2 * side / min(size)
    return int(size[0] * scale) + 1, int(size[1] * scale) + 1


def _scaled(size: Size, side: int | None) -> Size:
    """The size that Pillow's draft mode would choose."""
    if side is None:
        return size
    least = drafted(size, side)
    times = min(size[0] // least[0], size[1] // least[1])
    scale = next((scale for scale in _SCALES if times >= scale), 1)
    return -(-size[0] // scale), -(-size[1] // scale)
