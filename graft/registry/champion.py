"""The model that serves now."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from graft.backbones.descriptions import read_model_json
from graft.errors import GraftError
from graft.files import sha256_file
from graft.params import Registry
from graft.registry.packaging import ARTIFACT
from graft.registry.tracking import answering, is_new, reach, tracking_uri, using

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion


@dataclass(frozen=True)
class ChampionModel:
    """The version with the alias `champion`.

    Attributes:
        version: As the registry numbers it.
        folder: A copy of the classifier's folder, as `graft.load` reads it; deleted when the process
            ends. None where it cannot be used.
        problem: Why it cannot be used, or None.
        weights_sha256: Of its weights, as it was registered.
        data_md5: Of the data it was registered from.
    """

    version: str
    folder: Path | None
    problem: str | None
    weights_sha256: str | None = None
    data_md5: str | None = None


def champion(params: Registry) -> ChampionModel | None:
    """The champion of the registered model `params.model_name`; None where there is none.

    Raises:
        GraftError: MLflow cannot be used.
    """
    if is_new(tracking_uri(params)):
        return None  # making MLflow's tables takes seconds; the registration does it
    with _asking(params, "look for the champion") as client:
        version = _version(client, params.model_name)
        if version is None:
            return None
        folder, problem = fetch(version)
    return ChampionModel(
        version=str(version.version),
        folder=folder,
        problem=problem,
        weights_sha256=version.tags.get("weights_sha256"),
        data_md5=version.tags.get("data_md5"),
    )


def champion_version(params: Registry) -> str | None:
    """The champion's version, as the registry numbers it; None where there is no champion.

    Raises:
        GraftError: MLflow cannot be used.
    """
    if is_new(tracking_uri(params)):
        return None
    with _asking(params, "look for the champion") as client:
        version = _version(client, params.model_name)
    return str(version.version) if version else None


def fetch_version(params: Registry, number: str) -> tuple[Path | None, str | None]:
    """As `fetch`, of a version by its number.

    Raises:
        GraftError: MLflow cannot be used.
    """
    with _asking(params, f"fetch version {number} of {params.model_name}") as client:
        return fetch(client.get_model_version(params.model_name, number))


def fetch(version: ModelVersion) -> tuple[Path | None, str | None]:
    """A copy of a version's classifier, deleted when the process ends, or why it cannot be used."""
    stored = f"models:/{version.name}/{version.version}/artifacts/{ARTIFACT}"
    # What is lost for good is told apart from a server that does not answer: without scores of the
    # champion a challenger is promoted easily.
    if problem := _lost(stored):
        return None, problem
    folder = _download(stored)
    problem = _defect(folder, version.tags.get("weights_sha256"))
    return (None, problem) if problem else (folder, None)


@contextmanager
def _asking(params: Registry, what: str) -> Iterator[MlflowClient]:
    uri = tracking_uri(params)
    client = reach(uri)
    with using(uri), answering(uri, what):
        yield client


def _version(client: MlflowClient, name: str) -> ModelVersion | None:
    from mlflow.exceptions import MlflowException

    try:
        aliases = client.get_registered_model(name).aliases
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    return client.get_model_version(name, aliases["champion"]) if "champion" in aliases else None


def _lost(uri: str) -> str | None:
    """Which files of a stored classifier do not exist any more, or never did."""
    import mlflow

    listed = {Path(file.path).name for file in mlflow.artifacts.list_artifacts(artifact_uri=uri)}
    missing = {"model.json", "weights.safetensors"} - listed
    return f"the artifact store has no {' and no '.join(sorted(missing))} of it" if missing else None


def _download(uri: str) -> Path:
    import mlflow

    folder = tempfile.mkdtemp(prefix="graft-champion-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(mlflow.artifacts.download_artifacts(uri, dst_path=folder))


def _defect(folder: Path, registered: str | None) -> str | None:
    """Why a folder is not a whole classifier of this graft, with the weights that were registered."""
    try:
        record = read_model_json(folder)
    except GraftError as error:
        return error.problem
    stored = sha256_file(folder / "weights.safetensors")
    if stored != record["weights_sha256"] or registered not in (None, stored):
        return "its weights are not those that were registered"
    return None
