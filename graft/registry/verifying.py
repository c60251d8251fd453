"""Is a registered version still the model that was judged? Its hashes, and its answers."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from graft.backbones.classifier import load_classifier
from graft.backbones.descriptions import read_model_json
from graft.errors import GraftError
from graft.files import sha256_file
from graft.images.loading import load_images
from graft.images.table import ImageTable, read_table
from graft.params import Registry
from graft.registry.packaging import ARTIFACT, digest_of_files
from graft.registry.tracing import run_artifact, run_file
from graft.registry.trial import TOLERANCE, try_out
from graft.registry.versions import connected, find
from graft.training.device import best_device

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

REPEATED = "logged predictions"
CHUNK = 1024  # images decoded at once


def verify(params: Registry, reference: str, images: Path | None = None) -> dict[str, Any]:
    """Load a version as a server does, check its hashes and ask it again what it was asked.

    Args:
        reference: NAME@ALIAS, NAME/VERSION, or the same behind `models:/`.
        images: An image table. The version's logged predictions are repeated on those of its images
            that the table holds; without one, or where none was logged, the served model is only
            compared with its own weights on four made-up images.

    Returns:
        name, version, passed (no check failed), repeated (whether logged predictions were), and checks:
        each as check, passed (None: could not be done) and text.

    Raises:
        GraftError: there is no such version or image table, or MLflow cannot be used.
    """
    table = read_table(images) if images else None
    with connected(params, f"verify {reference}") as client, tempfile.TemporaryDirectory() as folder:
        version = find(client, reference)
        stored = download(version, Path(folder))
        checks = check_hashes(version.tags, stored)
        if all(check["passed"] for check in checks):
            checks.append(_check_service(version, stored))
            checks.append(_check_predictions(client, version, stored, table, Path(folder) / "run"))
    return {
        "name": version.name,
        "version": str(version.version),
        "passed": all(check["passed"] is not False for check in checks),
        "repeated": any(check["check"] == REPEATED and check["passed"] is not None for check in checks),
        "checks": checks,
    }


def download(version: ModelVersion, folder: Path) -> Path:
    """A copy of a version's files below `folder`.

    Raises:
        GraftError: the artifact store does not have them.
    """
    import mlflow

    uri = f"models:/{version.name}/{version.version}"
    try:
        files = mlflow.artifacts.download_artifacts(uri, dst_path=str(folder / "stored"))
    except OSError as error:
        raise GraftError(
            f"the files of {uri} cannot be read: {error}", "restore them in MLflow's artifact store"
        ) from error
    return Path(files)


def check_hashes(tags: dict[str, str], stored: Path) -> list[dict[str, Any]]:
    """The weights against the tag and model.json, and every file against what was registered."""
    folder = stored / "artifacts" / ARTIFACT
    try:
        record = read_model_json(folder)
        found = sha256_file(folder / "weights.safetensors")
    except (GraftError, OSError) as error:
        return [_check("weights", False, str(error).partition("\n")[0])]
    checks = [
        _same("weights against model.json", found, record["weights_sha256"]),
        _same("weights against the registry", found, tags.get("weights_sha256")),
    ]
    if "files_sha256" in tags:
        checks.append(_same("every stored file", digest_of_files(stored), tags["files_sha256"]))
    return checks


def _check_service(version: ModelVersion, stored: Path) -> dict[str, Any]:
    """The pyfunc against the classifier in it."""
    name = "served answers"
    try:
        classifier = stored / "artifacts" / ARTIFACT
        try_out(f"models:/{version.name}/{version.version}", classifier, stored=stored)
    except GraftError as error:
        return _check(name, False, error.problem)
    return _check(name, True, "four made-up images: the served model answers as its weights do")


def _check_predictions(
    client: MlflowClient, version: ModelVersion, stored: Path, table: ImageTable | None, work: Path
) -> dict[str, Any]:
    if table is None:
        return _check(REPEATED, None, "not repeated: give --images IMAGE_TABLE")
    work.mkdir()
    run = version.run_id or ""
    file = run_artifact(client, run, "predictions.parquet", work) if run else None
    decision = run_file(client, run, "decision.json") if file else None
    if file is None or decision is None:
        return _check(REPEATED, None, "not repeated: the run holds none")
    logged, classes = _logged(file, decision["winner"])
    rows = table.rows[table.rows["sha256"].isin(logged.index)].drop_duplicates("sha256")
    if rows.empty:
        text = (
            f"not repeated: {table.path} holds none of the {len(logged)} logged images; give the image table"
        )
        return _check(REPEATED, None, f"{text} of the version's data, {version.tags.get('data_md5')}")
    difference = _largest_difference(stored / "artifacts" / ARTIFACT, table, rows, logged, classes)
    text = f"{len(rows)} of {len(logged)} logged images predicted again: a probability differs by"
    text += f" {difference:.1g} at most; {TOLERANCE:g} is allowed"
    return _check(REPEATED, difference <= TOLERANCE, text)


def _logged(file: Path, winner: str) -> tuple[pd.Series, list[str]]:
    """The winner's probabilities by the images' sha256, and the names of their columns."""
    import pyarrow.parquet as pq

    whole = pq.read_table(file)
    classes = json.loads(whole.schema.metadata[b"classes"])
    frame = whole.to_pandas()
    mine = frame[frame["candidate"] == winner].drop_duplicates("sha256").set_index("sha256")
    return mine["probabilities"], classes


def _largest_difference(
    folder: Path, table: ImageTable, rows: pd.DataFrame, logged: pd.Series, classes: list[str]
) -> float:
    model = load_classifier(folder).to(best_device())
    columns = [classes.index(name) for name in model.classes]
    worst = 0.0
    for start in range(0, len(rows), CHUNK):
        part = rows.iloc[start : start + CHUNK]
        images = load_images(table, part.index, model.config.preprocessing)
        wanted = np.stack(logged.loc[images.rows["sha256"]].to_list())[:, columns]
        worst = max(worst, float(np.abs(model.predict_pixels(images.pixels) - wanted).max()))
    return worst


def _same(name: str, found: str, wanted: str | None) -> dict[str, Any]:
    if wanted is None:
        return _check(name, False, "the registry has no hash of it")
    text = (
        f"sha256 {found[:12]}" if found == wanted else f"sha256 is {found[:12]}, registered was {wanted[:12]}"
    )
    return _check(name, found == wanted, text)


def _check(name: str, passed: bool | None, text: str) -> dict[str, Any]:
    return {"check": name, "passed": passed, "text": text}
