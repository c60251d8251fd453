"""Trying out a stored model: does it answer as the classifier it was made from?"""

from __future__ import annotations

import base64
import io
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from graft.backbones.classifier import load_classifier
from graft.errors import GraftError
from graft.training.device import best_device

TOLERANCE = 1e-4  # of a probability: another batch size rounds differently


def trial_images(side: int) -> list[bytes]:
    """Four images as PNG files, the same at every call: gradients and noise, square and not.

    Args:
        side: Of a square one, pixels.
    """
    across, down = np.meshgrid(np.linspace(0, 255, side), np.linspace(0, 255, side))
    gradient = np.stack([across, down, 255 - across], axis=-1)
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (side, side + side // 2, 3))
    blocks = random.integers(0, 256, (4, 4, 3)).repeat(-(-side // 4), 0).repeat(-(-side // 2), 1)
    return [_png(pixels) for pixels in (gradient, noise, blocks, 255 - gradient)]


def as_input(images: list[bytes]) -> pd.DataFrame:
    """The served model's input: one column `image`, base64 text."""
    return pd.DataFrame({"image": [base64.b64encode(image).decode() for image in images]})


def try_out(model_uri: str, winner: Path, *, stored: Path | None = None) -> None:
    """Load a model from MLflow as a server does, and compare it with the classifier it was made from.

    Args:
        model_uri: Such as "models:/classifier/3".
        winner: The classifier's folder.
        stored: A copy of the model's files on this machine; fetched where it is None.

    Raises:
        GraftError: it answers otherwise.
    """
    classifier = load_classifier(winner).to(best_device())  # where the served model puts itself
    images = trial_images(classifier.config.preprocessing.resize_size)
    expected = classifier.predict(images)
    answers = _ask(str(stored or model_uri), images, top_k=len(classifier.classes))
    failures = [error for error in answers["error"] if error is not None]
    if failures:
        raise _wrong(model_uri, winner, failures[0])
    difference = float(np.abs(_probabilities(answers["top"], classifier.classes) - expected).max())
    if not difference <= TOLERANCE:
        raise _wrong(model_uri, winner, f"a probability differs by {difference:.3g}")


def _ask(model_uri: str, images: list[bytes], *, top_k: int) -> pd.DataFrame:
    import mlflow

    path = list(sys.path)
    try:
        model = mlflow.pyfunc.load_model(model_uri)
    finally:
        sys.path[:] = path  # MLflow puts the model's own code first, for good
    answers: pd.DataFrame = model.predict(as_input(images), params={"top_k": top_k})
    return answers


def _probabilities(tops: Iterable[str], classes: Sequence[str]) -> np.ndarray:
    """(N, C), from JSON lists of labels and probabilities; NaN for a class that is not listed."""
    listed = [{each["label"]: each["probability"] for each in json.loads(top)} for top in tops]
    return np.array([[row.get(name, np.nan) for name in classes] for row in listed])


def _wrong(model_uri: str, winner: Path, how: str) -> GraftError:
    return GraftError(
        f"{model_uri} answers otherwise than {winner}: {how}",
        "check MLflow's artifact store and register again; no alias was moved",
    )


def _png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()
