"""A version from one MLflow server to another, whole or without an alias."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.errors import GraftError
from graft.params import Registry
from graft.registry import ledger
from graft.registry.packaging import digest_of_files
from graft.registry.promotion import CHAMPION, champion_of, move
from graft.registry.tracking import experiment_id, shown, tracking_uri
from graft.registry.verifying import check_hashes, download
from graft.registry.versions import all_versions, connected, find

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

_MODEL = "model"  # the folder of the model's files among the artifacts of its new run


@dataclass(frozen=True)
class _Cargo:
    """What is copied: the version, its run, and the files of both in a folder of this machine."""

    version: ModelVersion
    run: Run | None
    model: Path
    artifacts: Path
    origin: dict[str, str]


def copy(source: Registry, destination: Registry, reference: str) -> dict[str, Any]:
    """Copy a version with its run, tags and files to another MLflow, under the same name.

    The files are downloaded again after the upload and compared; only then does a version appear, and
    only then does the alias move. An interrupted copy is simply repeated: a version that was copied
    before is found by its origin.

    Args:
        source, destination: Where from and where to; of `destination` also the experiment.
        reference: NAME@ALIAS; NAME/VERSION copies without an alias.

    Returns:
        name, version (at the destination), alias, origin, reused, moved (whether the alias did).

    Raises:
        GraftError: there is no such version, its files are not those that were registered, both are the
            same MLflow, or one of them cannot be used.
    """
    if tracking_uri(source) == tracking_uri(destination):
        raise GraftError(
            f"--from and --to are both {shown(tracking_uri(source))}",
            "give another server; `graft promote` moves an alias",
        )
    alias = reference.partition("@")[2] or None
    with tempfile.TemporaryDirectory(prefix="graft-copy-") as folder:
        cargo = _load(source, reference, Path(folder))
        with connected(destination, f"copy {reference}") as client:
            arrived = _copied_before(client, cargo, Path(folder))
            version = arrived or _unload(client, cargo, destination, Path(folder))
            moved = _point(client, version, alias, cargo) if alias else False
    return {
        "name": version.name,
        "version": str(version.version),
        "alias": alias,
        "origin": cargo.origin,
        "reused": arrived is not None,
        "moved": moved,
    }


def _load(source: Registry, reference: str, folder: Path) -> _Cargo:
    with connected(source, f"read {reference}") as client:
        version = find(client, reference)
        model = download(version, folder / "from")
        _refuse_damage(version.tags, model, f"{reference} at {shown(client.tracking_uri)}")
        artifacts = folder / "artifacts"
        artifacts.mkdir()
        run = client.get_run(version.run_id) if version.run_id else None
        if run:
            _fetch_files(client, run.info.run_id, artifacts)
    origin = {"uri": shown(tracking_uri(source)), "version": str(version.version)}
    return _Cargo(version, run, model, artifacts, origin | {"run_id": version.run_id or ""})


def _fetch_files(client: MlflowClient, run_id: str, folder: Path) -> None:
    for file in client.list_artifacts(run_id):
        if file.path != _MODEL:  # that of a version that was copied itself
            client.download_artifacts(run_id, file.path, str(folder))


def _copied_before(client: MlflowClient, cargo: _Cargo, folder: Path) -> ModelVersion | None:
    """The version that an earlier copy made, if its files are whole."""
    telling = ("weights_sha256", "origin.uri", "origin.version")
    wanted = {tag: value for tag, value in _tags(cargo).items() if tag in telling}
    for version in all_versions(client, cargo.version.name):
        if wanted.items() <= version.tags.items():
            place = folder / f"before-{version.version}"
            if digest_of_files(download(version, place)) == digest_of_files(cargo.model):
                return version
    return None


def _unload(client: MlflowClient, cargo: _Cargo, destination: Registry, folder: Path) -> ModelVersion:
    """Upload run and model, download the model again, and only then make a version."""
    import mlflow

    experiment = experiment_id(client, tracking_uri(destination), destination.experiment)
    run_name = cargo.run.info.run_name if cargo.run else None
    with mlflow.start_run(experiment_id=experiment, run_name=run_name, tags=_tags(cargo)) as run:
        if cargo.run:
            mlflow.log_params(cargo.run.data.params)
            mlflow.log_metrics(cargo.run.data.metrics)
        mlflow.log_artifacts(str(cargo.artifacts))
        mlflow.log_artifacts(str(cargo.model), _MODEL)
        arrived = Path(client.download_artifacts(run.info.run_id, _MODEL, str(folder)))
        _refuse_damage(cargo.version.tags, arrived, "what arrived at the destination")
        if digest_of_files(arrived) != digest_of_files(cargo.model):
            raise _damaged("what arrived at the destination", "its files differ from those sent")
        uri = f"runs:/{run.info.run_id}/{_MODEL}"
        return mlflow.register_model(uri, cargo.version.name, tags=_tags(cargo))


def _point(client: MlflowClient, version: ModelVersion, alias: str, cargo: _Cargo) -> bool:
    """Set the alias; `champion` through the ledger."""
    model = client.get_registered_model(version.name)
    if str(model.aliases.get(alias)) == str(version.version):
        return False
    if alias != CHAMPION:
        client.set_registered_model_alias(version.name, alias, version.version)
        return True
    why = f"copied from version {cargo.origin['version']} at {cargo.origin['uri']}"
    evidence = {"run_id": version.run_id, "origin": cargo.origin}
    entry = ledger.draft("copy", alias, version.version, why=why, evidence=evidence)
    return move(client, version.name, entry, champion_of(model)) is not None


def _tags(cargo: _Cargo) -> dict[str, str]:
    """The version's, and its origin: where it was copied from last."""
    return {**cargo.version.tags, **{f"origin.{key}": value for key, value in cargo.origin.items()}}


def _refuse_damage(tags: dict[str, str], model: Path, what: str) -> None:
    for check in check_hashes(tags, model):
        if not check["passed"]:
            raise _damaged(what, f"{check['check']}: {check['text']}")


def _damaged(what: str, how: str) -> GraftError:
    return GraftError(
        f"{what} is not the model that was registered ({how})",
        "restore its files in the artifact store, or copy another version; no alias was moved",
    )
