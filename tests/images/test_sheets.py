"""The contact sheet: one row per class, images whole, titles that fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from graft.images.sheets import CELL, GAP, MOST_ROWS, TITLE, contact_sheet, thumbnail


def test_rows_and_columns(tmp_path: Path) -> None:
    red, blue = Image.new("RGB", (300, 200), "red"), Image.new("RGB", (8, 8), "blue")
    contact_sheet([("ant (2)", [red, red]), ("a very long name " * 9, [blue])], tmp_path / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (2 * (CELL + GAP), TITLE + 2 * (CELL + GAP), 3)
    assert sheet[CELL // 2, TITLE + CELL // 2].tolist() == [255, 0, 0]
    assert sheet[2, TITLE + CELL // 2].tolist() == [255, 255, 255]  # a wide image is shown whole
    assert sheet[CELL + GAP, TITLE].tolist() == [0, 0, 255]
    assert (sheet[:, TITLE - 8 : TITLE] == 255).all()
    assert (sheet[:, :TITLE] < 128).any()


def test_a_thousand_classes_are_cut(tmp_path: Path) -> None:
    contact_sheet([("class", [])] * 1000, tmp_path / "sheet.png")
    assert Image.open(tmp_path / "sheet.png").height == MOST_ROWS * (CELL + GAP)


def test_small_images_keep_their_pixels() -> None:
    checks = Image.fromarray(np.indices((8, 8)).sum(0).astype(np.uint8) % 2 * 255).convert("RGB")
    assert set(np.unique(np.asarray(thumbnail(checks)))) == {0, 255}
