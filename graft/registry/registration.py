"""A winner becomes a version of the registered model, tried out before any alias points to it."""

from __future__ import annotations

import math
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.backbones.classifier import load_classifier
from graft.backbones.descriptions import read_model_json
from graft.files import write_json
from graft.params import Registry
from graft.registry import ledger
from graft.registry.card import shortened
from graft.registry.packaging import digest_of_files, log_model
from graft.registry.promotion import CHAMPION, Superseded, champion_of, evidence_of, move
from graft.registry.sbom import write_bill
from graft.registry.tracking import answering, experiment_id, reach, shown, tracking_uri, using
from graft.registry.trial import try_out
from graft.registry.versions import aliases_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHALLENGER = "challenger"


@dataclass(frozen=True)
class _Entry:
    """What is registered: `register`'s arguments."""

    winner: Path
    decision: Mapping[str, Any]
    lineage: Mapping[str, Any]
    metrics: Mapping[str, float]
    predictions: Path | None
    report: Path | None
    card: str | None


def register(
    winner: Path,
    decision: Mapping[str, Any],
    params: Registry,
    *,
    lineage: Mapping[str, Any],
    metrics: Mapping[str, float],
    predictions: Path | None = None,
    report: Path | None = None,
    card: str | None = None,
) -> dict[str, Any]:
    """Register a classifier as challenger, and as champion when the decision says so.

    The same weights from the same data are registered once: a second call finds the version and only
    sets the aliases. So a call that was interrupted anywhere is simply repeated. An alias moves only
    after the stored model was loaded back and gave the classifier's predictions.

    Args:
        winner: A classifier's folder.
        decision: `promote`, and `winner`, the candidate's name; kept as decision.json.
        params: Names, and where MLflow is.
        lineage: data_md5, git_commit and params_sha256; where known also params (all of params.yaml),
            pipeline_run (its name), step_seconds (by step) and backbone_sha256.
        metrics: By name, such as "accuracy.probe"; kept as metrics and as scores.json.
        predictions: Parquet file kept with the run.
        report: HTML page kept with the run.
        card: Markdown kept with the run as model_card.md, and as the version's description.

    Returns:
        name, version, run_id, champion (whether this version is it now), aliases, uri (of the version),
        tracking_uri, reused, superseded (None; reason and fix where another version became champion after
        the decision, which was then not carried out).

    Raises:
        GraftError: MLflow cannot be used, or the folder holds no whole classifier.
    """
    load_classifier(winner)  # a broken one leaves no trace in MLflow
    entry = _Entry(winner, decision, lineage, _finite(metrics), predictions, report, card)
    uri = tracking_uri(params)
    client = reach(uri)
    with using(uri), answering(uri, "register the model"):
        version = _registered_before(client, params.model_name, entry)
        reused = version is not None
        if version is None:
            version = _register(client, experiment_id(client, uri, params.experiment), params, entry)
        if entry.card and not version.description:
            client.update_model_version(params.model_name, version.version, shortened(entry.card))
        superseded = _point_aliases(client, version, entry)
        aliases = aliases_of(client.get_registered_model(params.model_name), version.version)
    return {
        "name": params.model_name,
        "version": str(version.version),
        "run_id": version.run_id,
        "champion": CHAMPION in aliases,
        "aliases": aliases,
        "uri": f"models:/{params.model_name}/{version.version}",
        "tracking_uri": shown(uri),
        "reused": reused,
        "superseded": superseded,
    }


def _registered_before(client: MlflowClient, name: str, entry: _Entry) -> ModelVersion | None:
    """The newest version of the same weights and data that still loads; None where there is none."""
    wanted = {key: value for key, value in _tags(entry).items() if key in ("weights_sha256", "data_md5")}
    # The name may hold quotes, a digest cannot.
    found = client.search_model_versions(f"tags.weights_sha256 = '{wanted['weights_sha256']}'")
    same = [each for each in found if each.name == name and wanted.items() <= each.tags.items()]
    for version in sorted(same, key=lambda each: -int(each.version)):
        try:
            try_out(f"models:/{name}/{version.version}", entry.winner)
        except Exception as error:  # whatever is wrong with it: a new version is better
            print(f"version {version.version} of {name} is not used again: {error}", file=sys.stderr)
        else:
            return version
    return None


def _register(client: MlflowClient, experiment: str, params: Registry, entry: _Entry) -> ModelVersion:
    """One run with everything, the model in it tried out, and only then a version."""
    import mlflow

    run_name = entry.lineage.get("pipeline_run")
    with (
        tempfile.TemporaryDirectory(prefix="graft-") as folder,
        mlflow.start_run(experiment_id=experiment, run_name=run_name, tags=_tags(entry)),
    ):
        _log_run(entry, Path(folder))
        model = log_model(entry.winner, Path(folder))
        stored = Path(mlflow.artifacts.download_artifacts(model.model_uri, dst_path=f"{folder}/stored"))
        tags = {**_tags(entry), "files_sha256": digest_of_files(stored)}
        try_out(model.model_uri, entry.winner, stored=stored)
        return mlflow.register_model(model.model_uri, params.model_name, tags=tags)


def _log_run(entry: _Entry, work: Path) -> None:
    import mlflow
    from mlflow.data.code_dataset_source import CodeDatasetSource
    from mlflow.data.meta_dataset import MetaDataset

    seconds = (entry.lineage.get("step_seconds") or {}).items()
    mlflow.log_params(dict(flat(entry.lineage.get("params") or {})))
    mlflow.log_metrics({**entry.metrics, **{f"seconds.{step}": float(taken) for step, taken in seconds}})
    source = CodeDatasetSource(tags={"git_commit": str(entry.lineage["git_commit"])})
    digest = str(entry.lineage["data_md5"])
    data = MetaDataset(source, name="images", digest=digest)  # type: ignore[abstract]
    mlflow.log_input(data, context="training")
    mlflow.log_artifacts(str(_gather(entry, work / "run")))


def _gather(entry: _Entry, folder: Path) -> Path:
    """The run's files under their plain names: a driver's paths have none."""
    write_json(folder / "decision.json", dict(entry.decision))
    write_json(folder / "scores.json", dict(entry.metrics))
    for path, name in ((entry.predictions, "predictions.parquet"), (entry.report, "report.html")):
        if path is not None:
            shutil.copyfile(path, folder / name)
    if entry.card is not None:
        (folder / "model_card.md").write_text(entry.card, encoding="utf-8")
    write_bill(folder / "sbom.cdx.json")
    return folder


def _tags(entry: _Entry) -> dict[str, str]:
    """What a version is traced by."""
    record, lineage = read_model_json(entry.winner), entry.lineage
    backbone = lineage.get("backbone_sha256") or record["backbone"].get("sha256")
    tags = {key: str(lineage[key]) for key in ("data_md5", "git_commit", "params_sha256")}
    tags |= {"weights_sha256": record["weights_sha256"], "method": record["method"]}
    tags["backbone_sha256"] = str(backbone or "none")
    if (accuracy := entry.metrics.get(f"accuracy.{entry.decision.get('winner')}")) is not None:
        tags["accuracy"] = f"{accuracy:.4f}"
    return tags


def _point_aliases(client: MlflowClient, version: ModelVersion, entry: _Entry) -> dict[str, str] | None:
    """Move `challenger`, then `champion`; why the latter was not moved although it was decided."""
    name, decision = version.name, entry.decision
    client.set_registered_model_alias(name, CHALLENGER, version.version)
    if not decision["promote"]:
        return None
    why, evidence = evidence_of(decision, version.run_id)
    run = entry.lineage.get("pipeline_run")
    drafted = ledger.draft("register", CHAMPION, version.version, why=why, evidence=evidence, run=run)
    if "champion" in decision:
        expected = (decision["champion"] or {}).get("version")
    else:  # decided without looking at a champion
        expected = champion_of(client.get_registered_model(name))
    try:
        move(client, name, drafted, expected)
    except Superseded as error:
        return {"reason": error.problem, "fix": error.fix}
    return None


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items() if math.isfinite(value)}


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """{"a": {"b": 1}} as ("a.b", 1)."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
