"""Image files to their most probable classes, a batch at a time."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graft.backbones.classifier import Classifier
from graft.images.decoding import BrokenImage, check_size, open_image, threads, to_pixels
from graft.images.preprocessing import Preprocessing
from graft.progress import track

MAX_BYTES = 256 * 2**20  # of one file
MAX_PIXELS = 64_000_000  # of one image, as for the served model


@dataclass(frozen=True)
class Prediction:
    """One row of the answer.

    Attributes:
        path: The file, as it was named.
        label: The most probable class; None where there is no answer.
        probability: Of that class.
        top: JSON list of {"label", "probability"}, most probable first.
        error: Why there is no answer, or None.
        pixels: What was classified, uint8 (3, R, R); it stands in no table.
    """

    path: Path
    label: str | None = None
    probability: float | None = None
    top: str | None = None
    error: str | None = None
    pixels: np.ndarray | None = field(default=None, repr=False, compare=False)


def predict(
    model: Classifier, paths: Sequence[Path], *, top_k: int = 3, batch_size: int = 64
) -> Iterator[list[Prediction]]:
    """Classify image files; what cannot be used spoils its own row only.

    No more than one batch of images is in memory. Progress is shown.

    Args:
        model: Any classifier; its device does the work.
        paths: Files.
        top_k: How many classes `top` lists, where there are as many.
        batch_size: Images at a time.

    Yields:
        The predictions of one batch, in the order of `paths`.
    """
    waiting = iter(track(paths, "predicting", total=len(paths), unit="images"))
    with threads() as pool:
        while batch := list(islice(waiting, batch_size)):
            yield _classify(model, batch, top_k, pool)


def _classify(
    model: Classifier, paths: Sequence[Path], top_k: int, pool: ThreadPoolExecutor
) -> list[Prediction]:
    preprocessing = model.config.preprocessing
    decoded = list(pool.map(lambda path: _pixels(path, preprocessing), paths))
    good = [each for each in decoded if isinstance(each, np.ndarray)]
    answers: Iterator[np.ndarray] = iter(())
    if good:
        answers = iter(model.predict_pixels(torch.from_numpy(np.stack(good)), batch_size=len(good)))
    return [
        Prediction(path, error=each)
        if isinstance(each, str)
        else _answer(path, each, next(answers), model.classes, top_k)
        for path, each in zip(paths, decoded, strict=True)
    ]


def _pixels(path: Path, preprocessing: Preprocessing) -> np.ndarray | str:
    """uint8 (3, R, R), or what is wrong with the file."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return "not a file"
        if path.stat().st_size > MAX_BYTES:
            return f"huge: a file of more than {MAX_BYTES:,} bytes"
        content = path.read_bytes()
        check_size(open_image(content).size, min_side=1, max_pixels=MAX_PIXELS)
        return to_pixels(content, preprocessing)
    except BrokenImage as broken:
        return broken.reason
    except OSError as error:
        return f"cannot be read: {(error.strerror or str(error)).lower()}"
    except Exception as error:  # whatever one image does, the others get their answer
        return f"cannot be used: {type(error).__name__}: {error}"


def _answer(
    path: Path, pixels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str], top_k: int
) -> Prediction:
    order = np.argsort(-probabilities, kind="stable")[:top_k]
    top: list[dict[str, Any]] = [{"label": classes[i], "probability": float(probabilities[i])} for i in order]
    return Prediction(path, **top[0], top=json.dumps(top), pixels=pixels)
