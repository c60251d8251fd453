"""The model as MLflow serves it. This file is stored with the model and runs without graft installed."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext
from PIL import Image

from graft.backbones.classifier import Classifier, load_classifier
from graft.images.decoding import BrokenImage, check_size, open_image, resize_crop, to_pixels, workers
from graft.images.preprocessing import Preprocessing
from graft.training.device import best_device

TOP_K = 3
CHUNK = 256  # images decoded at once
MAX_PIXELS = 64_000_000
MAX_BYTES = 256 * 2**20  # of a file named by its path


class ServedClassifier(PythonModel):
    """Images in, the most probable classes out, one row per image; a broken image spoils its own row only."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the classifier that was registered."""
        self.model: Classifier = load_classifier(context.artifacts["model"]).to(best_device())

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Classify images.

        Args:
            context: Unused.
            model_input: A DataFrame with a column `image`, and also a list or an array uint8
                (N, H, W, 3), which MLflow has no annotation for. An image is an encoded file as base64
                text or as bytes, the path of a file (not when served over HTTP), or integers 0 to 255
                (H, W), (H, W, 1) or (H, W, 3).
            params: `top_k`, how many classes the column `top` lists; 3 by default.

        Returns:
            N rows: label and its probability; top, a JSON list of {"label", "probability"}, most probable
            first; error, why there is no answer for this image, or None.

        Raises:
            MlflowException: (HTTP 400) there is no column `image`, or top_k is below 1.
        """
        top_k = int((params or {}).get("top_k", TOP_K))
        if top_k < 1:
            raise MlflowException.invalid_parameter_value(f"top_k = {top_k}: give a number of at least 1")
        images, index = _images(model_input)
        rows: list[dict[str, Any]] = []
        for start in range(0, len(images), CHUNK):
            rows += self._classify(images[start : start + CHUNK], top_k)
        return _frame(rows, index)

    def _classify(self, images: Sequence[Any], top_k: int) -> list[dict[str, Any]]:
        preprocessing = self.model.config.preprocessing
        with ThreadPoolExecutor(workers()) as pool:  # Pillow decodes outside Python's lock
            decoded = list(pool.map(lambda image: _pixels(image, preprocessing), images))
        good = [pixels for pixels in decoded if isinstance(pixels, np.ndarray)]
        answers = iter(self.model.predict_pixels(torch.from_numpy(np.stack(good))) if good else ())
        return [
            {"error": each} if isinstance(each, str) else _answer(next(answers), self.model.classes, top_k)
            for each in decoded
        ]


def _images(model_input: Any) -> tuple[list[Any], pd.Index]:
    if isinstance(model_input, pd.DataFrame):
        if "image" not in model_input:
            raise MlflowException.invalid_parameter_value(
                f"the input has no column 'image', only {list(model_input.columns)}"
            )
        return list(model_input["image"]), model_input.index
    images = list(model_input)
    return images, pd.RangeIndex(len(images))


def _pixels(image: Any, preprocessing: Preprocessing) -> np.ndarray | str:
    """uint8 (3, R, R), or what is wrong with the image."""
    try:
        if isinstance(image, (str, Path)):
            image = _read(str(image))
        if isinstance(image, (bytes, bytearray, memoryview)):
            content = bytes(image)
            check_size(open_image(content).size, min_side=1, max_pixels=MAX_PIXELS)
            return to_pixels(content, preprocessing)
        return resize_crop(_picture(image), preprocessing)
    except BrokenImage as broken:
        return broken.reason
    except Exception as error:  # whatever one image does, the others get their answer
        return f"cannot be used: {type(error).__name__}: {error}"


def _read(text: str) -> bytes:
    """The image file that stands in the text as base64, or whose path it is."""
    # A server reads no files of its own for a client: that would let anybody look for them.
    serving = os.environ.get("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "").lower() == "true"
    if not serving and (content := _read_file(text)) is not None:
        return content
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except ValueError:
        wanted = "base64" if serving else "base64 nor the path of a file"
        raise BrokenImage(f"not {wanted}" if serving else f"neither {wanted}") from None


def _read_file(text: str) -> bytes | None:
    path = Path(text)
    try:
        if not path.is_file():
            return None
    except (OSError, ValueError):  # too long for a path, or not one at all: base64 is both
        return None
    if path.stat().st_size > MAX_BYTES:
        raise BrokenImage(f"huge: a file of more than {MAX_BYTES:,} bytes")
    return path.read_bytes()


def _picture(image: Any) -> Image.Image:
    if image is None or (isinstance(image, float) and np.isnan(image)):
        raise BrokenImage("no image given")
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    values = np.asarray(image)
    if values.ndim == 3 and values.shape[-1] == 1:
        values = values[..., 0]
    shaped = values.ndim == 2 or (values.ndim == 3 and values.shape[-1] == 3)
    if not shaped or not values.size or values.dtype.kind not in "iu":
        raise BrokenImage(f"values {values.dtype} {values.shape} are not integers (H, W) or (H, W, 3)")
    if values.min() < 0 or values.max() > 255:
        raise BrokenImage(f"values from {values.min()} to {values.max()} are not within 0 to 255")
    return Image.fromarray(values.astype(np.uint8)).convert("RGB")


def _answer(probabilities: np.ndarray, classes: Sequence[str], top_k: int) -> dict[str, Any]:
    order = np.argsort(-probabilities, kind="stable")[:top_k]
    top = [{"label": classes[i], "probability": float(probabilities[i])} for i in order]
    return {**top[0], "top": json.dumps(top), "error": None}


def _frame(rows: list[dict[str, Any]], index: pd.Index) -> pd.DataFrame:
    """Absent values are None, not NaN, which is not JSON."""
    columns = ("label", "probability", "top", "error")
    values = {column: pd.Series([row.get(column) for row in rows], index, object) for column in columns}
    if all(row["error"] is None for row in rows):
        values["probability"] = values["probability"].astype(float)
    return pd.DataFrame(values, index=index)


set_model(ServedClassifier())
