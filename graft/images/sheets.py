"""A contact sheet: sample images, one row per domain and class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from graft.files import whole_file

CELL = 96  # pixels, of one sample
GAP = 4
TITLE = 220  # pixels, of the text before the samples
MOST_ROWS = 100


def contact_sheet(rows: Sequence[tuple[str, Sequence[Image.Image]]], path: str | Path) -> None:
    """Draw rows of samples to a PNG file.

    Args:
        rows: Title and samples (RGB, of any size: shown whole); beyond 100 rows the rest is not drawn.
        path: The file.
    """
    shown = rows[:MOST_ROWS]
    columns = max((len(samples) for _, samples in shown), default=0)
    size = (TITLE + columns * (CELL + GAP), max(1, len(shown)) * (CELL + GAP))
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for number, (title, samples) in enumerate(shown):
        top = number * (CELL + GAP)
        draw.text((8, top + CELL // 2), _fitting(title), "black", font=_font(), anchor="lm")
        for column, sample in enumerate(samples):
            _paste(sheet, sample, TITLE + column * (CELL + GAP), top)
    with whole_file(path) as temporary:
        sheet.save(temporary, "PNG")


def thumbnail(image: Image.Image) -> Image.Image:
    """The image as it appears in a cell, so that large ones need not be kept."""
    scale = CELL / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    enlarged = scale > 1  # small images keep their square pixels
    return image.resize(size, Image.Resampling.NEAREST if enlarged else Image.Resampling.BILINEAR)


def _paste(sheet: Image.Image, sample: Image.Image, left: int, top: int) -> None:
    small = thumbnail(sample)
    sheet.paste(small, (left + (CELL - small.width) // 2, top + (CELL - small.height) // 2))


def _fitting(title: str) -> str:
    while _font().getlength(title) > TITLE - 16:
        title = title.rstrip("…")[:-1] + "…"
    return title


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(16)
