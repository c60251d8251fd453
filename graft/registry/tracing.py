"""From a model to what made it, and from data to the models that saw it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.errors import GraftError
from graft.files import read_json
from graft.params import Registry
from graft.registry.versions import aliases_of, all_versions, connected, find, registered_model

if TYPE_CHECKING:
    from mlflow import MlflowClient

_STEP = "seconds."  # before a step's name, among the metrics
_TAGS = ("data_md5", "git_commit", "params_sha256", "backbone_sha256", "weights_sha256", "method")


def trace_model(params: Registry, reference: str) -> dict[str, Any]:
    """What one version was made from, and how it was judged.

    Args:
        reference: NAME@ALIAS, NAME/VERSION, or the same behind `models:/`.

    Returns:
        name, version, aliases, data_md5, git_commit, params_sha256, backbone_sha256, weights_sha256,
        method, run_id, run (its name), params (by dotted name), step_seconds, metrics, decision, origin
        (of a copied version), and missing: what the registry does not hold any more.

    Raises:
        GraftError: there is no such version, or MLflow cannot be used.
    """
    with connected(params, f"trace {reference}") as client:
        version = find(client, reference)
        facts: dict[str, Any] = {"name": version.name, "version": str(version.version)}
        facts["aliases"] = aliases_of(registered_model(client, version.name), version.version)
        facts |= {tag: version.tags.get(tag) for tag in _TAGS}
        facts["origin"] = {
            tag.removeprefix("origin."): value
            for tag, value in sorted(version.tags.items())
            if tag.startswith("origin.")
        }
        return facts | _of_run(client, version.run_id)


def trace_data(params: Registry, md5: str) -> list[dict[str, Any]]:
    """The versions, of every registered model, that were trained on a state of the data.

    Args:
        md5: Of the data folder, as DVC writes it (with or without ".dir"), or how it begins.

    Returns:
        Each as name, version, aliases, data_md5, git_commit and run_id.

    Raises:
        GraftError: no version saw it, or MLflow cannot be used.
    """
    wanted = md5.removesuffix(".dir").lower()
    with connected(params, f"trace data {md5}") as client:
        known = all_versions(client)
        found = [each for each in known if wanted and each.tags.get("data_md5", "").startswith(wanted)]
        models = {name: registered_model(client, name) for name in {each.name for each in found}}
    if not found:
        there = sorted({each.tags["data_md5"][:12] for each in known if "data_md5" in each.tags})
        raise GraftError(
            f"no registered version saw data {md5!r}",
            f"give the md5 in data.dvc, or how it begins; known are: {', '.join(there) or 'none'}",
        )
    return [
        {
            "name": each.name,
            "version": str(each.version),
            "aliases": aliases_of(models[each.name], each.version),
            "data_md5": each.tags["data_md5"],
            "git_commit": each.tags.get("git_commit"),
            "run_id": each.run_id,
        }
        for each in found
    ]


def _of_run(client: MlflowClient, run_id: str | None) -> dict[str, Any]:
    """What only the run knows."""
    from mlflow.exceptions import MlflowException

    nothing: dict[str, Any] = {"run_id": run_id, "run": None, "params": {}, "step_seconds": {}, "metrics": {}}
    if not run_id:
        return nothing | {"decision": None, "missing": ["the run"]}
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return nothing | {"decision": None, "missing": [f"the run {run_id}"]}
    metrics = run.data.metrics
    decision = run_file(client, run_id, "decision.json")
    return {
        "run_id": run_id,
        "run": run.info.run_name,
        "params": dict(sorted(run.data.params.items())),
        "step_seconds": {k.removeprefix(_STEP): v for k, v in sorted(metrics.items()) if k.startswith(_STEP)},
        "metrics": {k: v for k, v in sorted(metrics.items()) if not k.startswith(_STEP)},
        "decision": decision,
        "missing": [] if decision else ["decision.json"],
    }


def run_file(client: MlflowClient, run_id: str, name: str) -> Any:
    """A JSON file of a run; None where the run has none."""
    with tempfile.TemporaryDirectory(prefix="graft-") as folder:
        path = run_artifact(client, run_id, name, Path(folder))
        return read_json(path) if path else None


def run_artifact(client: MlflowClient, run_id: str, name: str, folder: Path) -> Path | None:
    """A copy of a run's file, below `folder`; None where the run has none."""
    if name not in {file.path for file in client.list_artifacts(run_id)}:
        return None
    return Path(client.download_artifacts(run_id, name, str(folder)))
