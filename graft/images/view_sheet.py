"""A picture of the policy: originals beside their views, one row per class."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from graft.files import whole_file
from graft.images.decoding import workers
from graft.images.table import ImageTable
from graft.images.view_making import decode_squares, make_views
from graft.params import Augmentation

CELL, GAP, GROUP_GAP, BLOCK_GAP = 88, 4, 12, 36  # pixels: a tile; between tiles, examples, domains
MARGIN, TITLES, HEADER = 24, 120, 134  # pixels: all around, row titles, above the rows
COLUMNS = 12  # tiles in a row, about
MIN_WIDTH = 1000  # pixels: all the words of a policy fit in two lines
MOST_VIEWS, MOST_ROWS = 6, 40
INK, PALE, ACCENT = "#222222", "#6b6b6b", "#d9480f"


def draw_sheet(table: ImageTable, index: pd.Index, params: Augmentation, path: str | Path) -> None:
    """Draw training images of each class and domain beside their views.

    Where no views are written, it shows what training draws.

    Args:
        table: The image table.
        index: Its training images.
        params: The policy.
        path: The PNG file.
    """
    shown = min(params.views or 3, MOST_VIEWS)
    each = max(1, COLUMNS // (len(table.domains) * (shown + 1)))
    rows = table.rows.loc[index].query("label >= 0").sort_values("sha256")
    labels = sorted(rows["label"].unique())
    rows = rows[rows["label"].isin(labels[:MOST_ROWS])].groupby(["label", "domain"]).head(each)
    sheet = _blank(table, labels, shown, each, params)
    draw = ImageDraw.Draw(sheet)
    for label in labels[:MOST_ROWS]:
        middle = _top(labels.index(label)) + CELL // 2
        draw.text((MARGIN, middle), _fitting(table.classes[label]), INK, font=_font(16), anchor="lm")
    placed: dict[tuple[int, str], int] = {}
    for (label, domain), tiles in _examples(table, rows, params, shown):
        number = placed[label, domain] = placed.get((label, domain), -1) + 1
        left = _block_left(table.domains.index(domain), shown, each) + number * _example_width(shown)
        _place(sheet, tiles, left, _top(labels.index(label)))
    with whole_file(path) as temporary:
        sheet.save(temporary, "PNG")


def describe(params: Augmentation) -> list[str]:
    """The parts that are on, in a few words each."""
    p = params
    low, high = p.crop_scale
    said = {
        f"crop {low * 100:g} to {high * 100:g} % of the area": p.crop_scale != (1, 1),
        f"aspect {p.crop_ratio[0]:g} to {p.crop_ratio[1]:g}": p.crop_ratio != (1, 1),
        f"rotate ±{p.rotate:g}°": p.rotate,
        f"scale {p.scale[0]:g} to {p.scale[1]:g}": p.scale != (1, 1),
        f"mirror {p.flip_horizontal * 100:g} %": p.flip_horizontal,
        f"upside down {p.flip_vertical * 100:g} %": p.flip_vertical,
        f"perspective {p.perspective:g}": p.perspective,
        f"elastic {p.elastic:g} px": p.elastic,
        f"invert {p.invert * 100:g} %": p.invert,
        f"brightness ±{p.brightness:g}": p.brightness,
        f"contrast ±{p.contrast:g}": p.contrast,
        f"saturation ±{p.saturation:g}": p.saturation,
        f"hue ±{p.hue:g}": p.hue,
        f"noise {p.noise:g}": p.noise,
        f"mixup {p.mixup or 0:g} in training": p.mixup,
        f"cutmix {p.cutmix:g} in training": p.cutmix,
    }
    return [words for words, on in said.items() if on] or ["nothing is on"]


def _examples(
    table: ImageTable, rows: pd.DataFrame, params: Augmentation, shown: int
) -> Iterator[tuple[tuple[int, str], list[np.ndarray]]]:
    """(label, domain) and the tiles, original first, of each image."""
    with ThreadPoolExecutor(workers()) as pool:
        squares = decode_squares(pool, table, rows.index)
    views = [make_views(squares, list(rows["sha256"]), view, params) for view in range(shown)]
    tiles = zip(squares, *views, strict=True)
    for label, domain, example in zip(rows["label"], rows["domain"], tiles, strict=True):
        yield (label, domain), list(example)


def _blank(table: ImageTable, labels: list[int], shown: int, each: int, params: Augmentation) -> Image.Image:
    """The sheet with its words, and no images yet."""
    width = _block_left(len(table.domains), shown, each) - BLOCK_GAP + MARGIN
    left_out = len(labels) - MOST_ROWS
    height = _top(min(len(labels), MOST_ROWS)) + (20 if left_out > 0 else 0) + MARGIN - GAP
    sheet = Image.new("RGB", (max(width, MIN_WIDTH), height), "white")
    draw = ImageDraw.Draw(sheet)
    written = "their views" if params.views else "what training draws (no views are written)"
    draw.text((MARGIN, MARGIN), f"Training images beside {written}", INK, font=_font(22))
    for number, line in enumerate(_wrapped(describe(params), sheet.width - 2 * MARGIN)[:2]):
        draw.text((MARGIN, MARGIN + 32 + 18 * number), line, PALE, font=_font(13))
    for block, domain in enumerate(table.domains):
        _head(draw, domain, _block_left(block, shown, each), shown, each)
    if left_out > 0:
        words = f"and {left_out} more classes"
        draw.text((MARGIN, height - MARGIN), words, PALE, font=_font(14), anchor="ls")
    return sheet


def _head(draw: ImageDraw.ImageDraw, domain: str, left: int, shown: int, each: int) -> None:
    """The words above one domain's columns."""
    draw.text((left, HEADER - 22), domain, INK, font=_font(16), anchor="ls")
    for example in range(each):
        for column in range(shown + 1):
            middle = left + example * _example_width(shown) + column * (CELL + GAP) + CELL // 2
            words = f"view {column}" if column else "original"
            ink = PALE if column else ACCENT
            draw.text((middle, HEADER - 6), words, ink, font=_font(13), anchor="ms")


def _place(sheet: Image.Image, tiles: list[np.ndarray], left: int, top: int) -> None:
    for column, tile in enumerate(tiles):
        image = Image.fromarray(np.ascontiguousarray(tile.transpose(1, 2, 0)))
        # Small images keep their square pixels: it is those the network sees.
        smooth = Image.Resampling.NEAREST if image.width < CELL else Image.Resampling.BILINEAR
        at = (left + column * (CELL + GAP), top)
        sheet.paste(image.resize((CELL, CELL), smooth), at)
        if column == 0:
            box = (at[0] - 2, at[1] - 2, at[0] + CELL + 1, at[1] + CELL + 1)
            ImageDraw.Draw(sheet).rectangle(box, outline=ACCENT, width=2)


def _example_width(shown: int) -> int:
    return (shown + 1) * (CELL + GAP) - GAP + GROUP_GAP


def _block_left(block: int, shown: int, each: int) -> int:
    return MARGIN + TITLES + block * (each * _example_width(shown) - GROUP_GAP + BLOCK_GAP)


def _top(row: int) -> int:
    return HEADER + row * (CELL + 2 * GAP)


def _wrapped(parts: list[str], width: int) -> list[str]:
    lines = [""]
    for part in parts:
        longer = f"{lines[-1]}  ·  {part}" if lines[-1] else part
        if _font(13).getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(part)
    return lines


def _fitting(title: str) -> str:
    while _font(16).getlength(title) > TITLES - GAP:
        title = title.rstrip("…")[:-1] + "…"
    return title


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
