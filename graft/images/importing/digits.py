"""The default data: handwritten digits (source), and others of them over photographs (target).

Made as MNIST-M is made from MNIST (Ganin & Lempitsky 2015, arXiv:1409.7495): out = |patch - digit|,
here from what scikit-learn ships, so nothing is downloaded. The bytes are the same on every platform
and with every library version: choices come from SHA-256 of counters, the enlargement is exact
integer arithmetic, and the files are uncompressed BMP.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt

from graft.errors import GraftError
from graft.images.importing.layout import Incoming

Pixels = npt.NDArray[np.uint8]

SIDE = 32  # pixels; the digits come as 8 x 8
SOURCE_PER_CLASS = 100
TEST_PER_CLASS = 40
TRAIN_PER_CLASS = 10
VIEWS = 4  # crops per unlabelled digit
DIGITS_SHA256 = "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"
PHOTOS_SHA256 = {
    "china.jpg": "e701459344fd69797154c91add3bb5d70e5ed1a61d8bed889bab3a796104698d",
    "flower.jpg": "3202904ed246795bf616c66d7859cd7c6080eff736c6e38dc5cc62779742033f",
}


def read() -> Incoming:
    """The digits: 1000 as source, 100 labelled, 400 test and 1188 unlabelled images as target.

    No digit is in two of these parts; an unlabelled digit is there `VIEWS` times, over other crops.
    Files are named after their content, so neither name nor order tells the class.

    Raises:
        GraftError: scikit-learn's digits, or its photographs as decoded here, are not the known ones.
    """
    digits, labels = _digits()
    photos = _photos()
    files = []
    for folder, index, view in _parts(labels):
        pixels = enlarge(digits[index])
        if view is not None:
            pixels = blend(pixels, _crop(photos, index, view))
        content = bmp(pixels)
        files.append((PurePosixPath(folder, f"{hashlib.sha256(content).hexdigest()[:16]}.bmp"), content))
    return Incoming(files, len(files))


def enlarge(digit: npt.NDArray[np.integer]) -> Pixels:
    """(8, 8) of 0..16 -> (32, 32, 3) of 0..255, bilinear between pixel centres, rounded half up."""
    weights = _weights(len(digit))  # eighths: each row sums to 8, so both directions sum to 64
    sums = weights @ digit.astype(np.int64) @ weights.T
    grey = (sums * 255 + 512) // (64 * 16)
    return np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)


def blend(digit: Pixels, patch: Pixels) -> Pixels:
    """|patch - digit|, both (H, W, 3)."""
    return np.abs(patch.astype(np.int16) - digit.astype(np.int16)).astype(np.uint8)


def bmp(pixels: Pixels) -> bytes:
    """(H, W, 3) RGB -> an uncompressed 24-bit BMP file; W must be a multiple of 4 (no row padding)."""
    height, width, _ = pixels.shape
    rows = np.ascontiguousarray(pixels[::-1, :, ::-1]).tobytes()  # bottom row first, blue first
    head = struct.pack("<2sIHHI", b"BM", 54 + len(rows), 0, 0, 54)
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, len(rows), 2835, 2835, 0, 0)
    return head + info + rows


def _weights(size: int) -> npt.NDArray[np.int64]:
    """Shape (SIDE, size), in eighths: the centre of new pixel i lies at (2i - 3)/8 in old pixels."""
    weights = np.zeros((SIDE, size), dtype=np.int64)
    for new in range(SIDE):
        low, eighths = divmod(min(max(2 * new - 3, 0), 8 * (size - 1)), 8)
        weights[new, low] += 8 - eighths
        weights[new, min(low + 1, size - 1)] += eighths
    return weights


def _parts(labels: npt.NDArray[np.integer]) -> Iterator[tuple[str, int, int | None]]:
    """Of each image: its folder, its digit's index, and which crop goes under it (None: no crop)."""
    ends = np.cumsum([SOURCE_PER_CLASS, TEST_PER_CLASS, TRAIN_PER_CLASS])
    for label in range(10):
        shuffled = sorted(np.flatnonzero(labels == label).tolist(), key=lambda index: _number("digit", index))
        for place, index in enumerate(shuffled):
            if place < ends[0]:
                yield f"source/{label}", index, None
            elif place < ends[1]:
                yield f"target/test/{label}", index, 0
            elif place < ends[2]:
                yield f"target/train/{label}", index, 0
            else:
                yield from (("target/unlabeled", index, view) for view in range(VIEWS))


def _crop(photos: list[Pixels], index: int, view: int) -> Pixels:
    photo = photos[_number("photo", index, view) % len(photos)]
    top = _number("top", index, view) % (photo.shape[0] - SIDE + 1)
    left = _number("left", index, view) % (photo.shape[1] - SIDE + 1)
    return photo[top : top + SIDE, left : left + SIDE]


def _number(*counter: str | int) -> int:
    """A 64-bit number that looks random and is a function of the counter alone."""
    text = "/".join(("graft-digits", *map(str, counter)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _digits() -> tuple[Pixels, npt.NDArray[np.integer]]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels, labels = bunch.images.astype(np.uint8), bunch.target.astype(np.uint8)
    if hashlib.sha256(pixels.tobytes() + labels.tobytes()).hexdigest() != DIGITS_SHA256:
        raise GraftError(
            "the digits of the installed scikit-learn are not the known ones (their SHA-256 differs)",
            "install the scikit-learn of requirements.txt",
        )
    return pixels, labels


def _photos() -> list[Pixels]:
    from sklearn.datasets import load_sample_image

    photos = [np.ascontiguousarray(load_sample_image(name), dtype=np.uint8) for name in PHOTOS_SHA256]
    for photo, (name, expected) in zip(photos, PHOTOS_SHA256.items(), strict=True):
        found = hashlib.sha256(photo.tobytes()).hexdigest()
        if found != expected:
            raise GraftError(
                f"{name} of scikit-learn decodes to other pixels here than where the data were defined "
                f"(SHA-256 {found[:12]}, not {expected[:12]}): this Pillow uses another JPEG library",
                "install Pillow's own wheel, which brings libjpeg-turbo: "
                "pip install --force-reinstall --only-binary pillow pillow",
            )
    return photos
