"""What every model says about every held-out image, kept per image so that comparisons are paired."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from graft.backbones.classifier import Classifier
from graft.errors import GraftError
from graft.files import whole_file
from graft.images.loading import load_images
from graft.images.preprocessing import Preprocessing
from graft.images.table import ImageTable

CHUNK = 1024  # images decoded at once, so that memory does not grow with the test set


@dataclass(frozen=True)
class Predictions:
    """Probabilities of several models on the same labelled images.

    Attributes:
        rows: The images: sha256, path, domain, split, label; the index is the image table's.
        classes: C names: the table's, then those that only some model knows.
        probabilities: float32 (N, C) by model name; 0 for a class that the model does not know.
    """

    rows: pd.DataFrame
    classes: tuple[str, ...]
    probabilities: Mapping[str, np.ndarray]

    @property
    def labels(self) -> np.ndarray:
        """int64 (N,), indices into `classes`."""
        return self.rows["label"].to_numpy(dtype=np.int64)

    def right(self, name: str) -> np.ndarray:
        """Which images one model predicted right, bool (N,)."""
        return self.probabilities[name].argmax(axis=1) == self.labels

    def part(self, domain: str, split: str) -> Predictions:
        """Those of one domain and split; may be empty."""
        inside = ((self.rows["domain"] == domain) & (self.rows["split"] == split)).to_numpy()
        chosen = {name: values[inside] for name, values in self.probabilities.items()}
        return replace(self, rows=self.rows[inside], probabilities=chosen)


def held_out(table: ImageTable) -> pd.Index:
    """The labelled images that no method learns from: test and val, of every domain.

    Raises:
        GraftError: there is none in the test split of the target domain.
    """
    index = table.select(split=["test", "val"])
    rows = table.rows.loc[index]
    labelled = rows[rows["label"] >= 0]
    judged = (labelled["split"] == "test") & (labelled["domain"] == table.target)
    if not judged.any():
        where = f"domain {table.target!r} of " if table.target else ""
        raise GraftError(
            f"{where}the image table {table.path} has no labelled test image, so no model can be judged",
            "give a test folder, or raise data.test_fraction",
        )
    return labelled.index


def predict(models: Mapping[str, Classifier], table: ImageTable, *, batch_size: int) -> Predictions:
    """Ask every model about every held-out image; models of equal preprocessing share the decoding."""
    index = held_out(table)
    classes = union([table.classes, *(model.classes for model in models.values())])
    found = {name: np.zeros((len(index), len(classes)), np.float32) for name in models}
    for preprocessing in dict.fromkeys(model.config.preprocessing for model in models.values()):
        alike = {name: model for name, model in models.items() if model.config.preprocessing == preprocessing}
        _fill(found, alike, table, index, preprocessing, classes, batch_size)
    rows = table.rows.loc[index, ["sha256", "path", "domain", "split", "label"]]
    return Predictions(rows, classes, found)


def union(names: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """All class names, each once, in the order of their first appearance."""
    return tuple(dict.fromkeys(name for classes in names for name in classes))


def align(probabilities: np.ndarray, classes: Sequence[str], wanted: Sequence[str]) -> np.ndarray:
    """(N, len(classes)) -> (N, len(wanted)): columns found by name, 0 for classes the model does not know."""
    aligned = np.zeros((len(probabilities), len(wanted)), np.float32)
    position = {name: column for column, name in enumerate(wanted)}
    aligned[:, [position[name] for name in classes]] = probabilities
    return aligned


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Write Parquet, one row per image and model; the class names are in the schema's metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = [_table_of(predictions, name) for name in predictions.probabilities]
    whole = pa.Table.from_pandas(pd.concat(tables, ignore_index=True), preserve_index=False)
    whole = whole.replace_schema_metadata({"classes": json.dumps(predictions.classes)})
    with whole_file(path) as temporary:
        pq.write_table(whole, temporary)


def _fill(
    found: dict[str, np.ndarray],
    models: Mapping[str, Classifier],
    table: ImageTable,
    index: pd.Index,
    preprocessing: Preprocessing,
    classes: Sequence[str],
    batch_size: int,
) -> None:
    asked = {name: model.predictor(len(index), batch_size) for name, model in models.items()}
    for start in range(0, len(index), CHUNK):
        images = load_images(table, index[start : start + CHUNK], preprocessing)
        for name, model in models.items():
            answer = asked[name](images.pixels)
            found[name][start : start + CHUNK] = align(answer, model.classes, classes)


def _table_of(predictions: Predictions, name: str) -> pd.DataFrame:
    probabilities, classes = predictions.probabilities[name], np.array(predictions.classes, dtype=object)
    predicted = probabilities.argmax(axis=1)
    return pd.DataFrame(
        {
            "sha256": predictions.rows["sha256"].to_numpy(),
            "path": predictions.rows["path"].to_numpy(),
            "domain": predictions.rows["domain"].to_numpy(),
            "label": classes[predictions.labels],
            "predicted": classes[predicted],
            "probability": probabilities[np.arange(len(predicted)), predicted],
            "candidate": name,
            "probabilities": list(probabilities),
        }
    )
