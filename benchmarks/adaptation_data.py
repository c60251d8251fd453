"""The two pairs of domains of benchmarks/adaptation.py, as image tables.

"mnist-N": N training images of MNIST (source) and N of MNIST-M (target), MNIST-M's 2000 test images.
The published experiment has 60,000 of either; of MNIST-M 10,000 are at hand. They are made of MNIST's first
10,000 digits; the source has the ones after them, so that no digit is in both domains. 1000 further digits
are the source's validation images, a twentieth of the target's N the oracle's.

"digits": graft's default data, 1000 digits (a fifth of them for validation) to 1288 over photographs,
tested on 400. Of the 1288 the methods know 100 labels, as everybody does who runs the default chain. The
oracle learns from those of the other 1188 as well: the importer lists them class by class.

Both tables are made by data_validation as it is. It drops what looks the same as a test image.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from graft.files import whole_folder
from graft.images.importing import digits, import_data
from graft.images.table import ImageTable, read_table
from graft.images.validation import validate
from graft.params import Data

MNIST_M = 10_000  # training images there are, made of MNIST's first ones
SOURCE_VALIDATION = 1000
TARGET_VALIDATION = 0.05


def load(data: str, shared: Path, folder: Path) -> tuple[ImageTable, ImageTable]:
    """The image tables of "digits" or "mnist-N", made at the first call.

    Returns:
        One with every label for the oracle and the tests, and what methods are given.
    """
    images = folder / f"{data} table"
    if not (images / "table.json").exists():
        if not (folder / data).exists():
            make_folder(data, shared, folder / data)
        validate(folder / data, Data(), images, folder / f"{data} docs")
    table = read_table(images)
    return (_revealed(table), table) if data == "digits" else (table, _hidden(table))


def make_folder(data: str, shared: Path, folder: Path) -> None:
    """The data folder."""
    if data == "digits":
        import_data("digits", folder)
        return
    source, target = (np.load(shared / "data" / f"{name}.npz") for name in ("mnist", "mnistm_12k"))
    count = int(data.removeprefix("mnist-"))
    if not 100 <= count <= MNIST_M:
        raise SystemExit(f"{data}: give an N from 100 to {MNIST_M}")
    learned = MNIST_M + count
    cut = count - round(count * TARGET_VALIDATION)
    parts = {
        "source/train": (source, "train", slice(MNIST_M, learned)),
        "source/val": (source, "train", slice(learned, learned + SOURCE_VALIDATION)),
        "target/train": (target, "train", slice(cut)),
        "target/val": (target, "train", slice(cut, count)),
        "target/test": (target, "test", slice(None)),
    }
    with whole_folder(folder) as temporary:
        for part, (arrays, split, rows) in parts.items():
            _write(temporary / part, arrays[f"x_{split}"][rows], arrays[f"y_{split}"][rows])


def _hidden(table: ImageTable) -> ImageTable:
    """Every training image of the target without its label."""
    rows = table.rows.copy()
    target = (rows["domain"] == "target") & (rows["split"] != "test")
    rows.loc[target, "split"] = "unlabeled"
    rows.loc[target, "label"] = -1
    return replace(table, rows=rows)


def _revealed(table: ImageTable) -> ImageTable:
    """The default data with the labels that its files in unlabeled/ do not tell."""
    known: dict[str, str] = {}
    label = ""
    for path, content in digits.read().files:
        if path.parent.name == "unlabeled":
            known[hashlib.sha256(bytes(content)).hexdigest()] = label
        else:  # those of each class that have a label come first
            label = path.parent.name
    rows = table.rows.copy()
    found = rows["sha256"].map(known)
    rows.loc[found.notna(), "label"] = found.dropna().map(table.classes.index)
    rows.loc[found.notna(), "split"] = "train"
    return replace(table, rows=rows)


def _write(folder: Path, pixels: np.ndarray, labels: np.ndarray) -> None:
    for label in np.unique(labels):
        (folder / str(label)).mkdir(parents=True)
    for number, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        colour = image if image.ndim == 3 else np.repeat(image[:, :, None], 3, axis=2)
        (folder / str(label) / f"{number:05d}.bmp").write_bytes(digits.bmp(colour))
