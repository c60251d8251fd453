"""Images as callers hold them, to the pixels a network is prepared for."""

from __future__ import annotations

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from graft.errors import GraftError
from graft.images.decoding import BrokenImage, resize_crop, to_pixels, workers
from graft.images.preprocessing import Preprocessing

ImageLike: TypeAlias = bytes | str | Path | Image.Image | np.ndarray


def stack_pixels(images: Sequence[ImageLike] | np.ndarray, preprocessing: Preprocessing) -> Tensor:
    """Decode, resize and stack images.

    Args:
        images: Encoded files (bytes), paths, PIL images, or uint8 arrays (H, W), (H, W, 1) or (H, W, 3).
        preprocessing: Decides R, the side of the result.

    Returns:
        uint8 (N, 3, R, R).

    Raises:
        GraftError: one of them is not an image; its path or position is named.
    """
    if isinstance(images, (bytes, str, Path, Image.Image)) or _is_one_array(images):
        raise GraftError("predict was given one image, not a sequence of images", "write predict([image])")
    with ThreadPoolExecutor(workers()) as pool:  # Pillow decodes outside Python's lock
        numbered = list(enumerate(images))
        decoded = list(pool.map(lambda item: _pixels(item[1], item[0], preprocessing), numbered))
    side = preprocessing.resize_size
    return torch.from_numpy(np.stack(decoded) if decoded else np.empty((0, 3, side, side), np.uint8))


def _pixels(image: ImageLike, position: int, preprocessing: Preprocessing) -> np.ndarray:
    name = str(image) if isinstance(image, (str, Path)) else f"number {position} (counted from 0)"
    try:
        if isinstance(image, np.ndarray):
            return resize_crop(Image.fromarray(_uint8(image)).convert("RGB"), preprocessing)
        return to_pixels(_content(image), preprocessing)
    except (BrokenImage, OSError) as error:
        raise GraftError(f"image {name} cannot be used: {error}", "leave it out, or replace it") from error


def _content(image: bytes | str | Path | Image.Image) -> bytes:
    if isinstance(image, bytes):
        return image
    if isinstance(image, (str, Path)):
        return Path(image).read_bytes()
    if isinstance(image, Image.Image):
        return _encode(image)
    raise BrokenImage(f"a {type(image).__name__} is neither bytes, a path, a PIL image nor an array")


def _encode(image: Image.Image) -> bytes:
    """Without loss, so that an opened file is turned and converted to RGB as the file itself is."""
    buffer = io.BytesIO()
    image = image.convert("RGB") if image.mode in ("CMYK", "YCbCr") else image
    image.save(buffer, "PNG", compress_level=1, exif=image.getexif())
    return buffer.getvalue()


def _uint8(array: np.ndarray) -> np.ndarray:
    array = array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array
    shaped = array.ndim == 2 or (array.ndim == 3 and array.shape[-1] == 3)
    if array.dtype != np.uint8 or not shaped or not array.size:
        raise BrokenImage(f"an array {array.dtype} {array.shape} is not uint8 (H, W) or (H, W, 3)")
    return array


def _is_one_array(images: object) -> bool:
    """Whether it can only be one image; (N, H, W) greyscale images are a sequence."""
    return isinstance(images, np.ndarray) and (
        images.ndim == 2 or (images.ndim == 3 and images.shape[-1] in (1, 3))
    )
