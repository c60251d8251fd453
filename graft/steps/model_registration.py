"""Step: the winner becomes a registered version with its lineage."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graft.backbones.descriptions import read_model_json
from graft.files import read_json, write_json
from graft.images.table import read_table
from graft.params import Params, Registry, parse
from graft.progress import say
from graft.registry.card import card
from graft.registry.registration import register


def run(
    *,
    registry: Mapping[str, Any],
    lineage: Mapping[str, Any],
    images: Path,
    network: Path,
    scores: Path,
    predictions: Path,
    winner: Path,
    decision: Path,
    report: Path,
    registered: Path,
) -> None:
    """See components/model_registration.py."""
    values = parse(Params, lineage["params"], "lineage: params")
    origin = {
        **lineage,
        "params": values.sections(),  # whole numbers again: Kubeflow makes each a float on the way
        "data_md5": read_table(images).data_md5,
        "backbone_sha256": read_json(network / "backbone.json")["weights_sha256"],
        **_of_this_run(),
    }
    decided, scored, params = (
        read_json(decision),
        read_json(scores),
        parse(Registry, registry, "params: registry"),
    )
    metrics = {f"accuracy.{name}": numbers["accuracy"] for name, numbers in scored["candidates"].items()}
    table = read_json(images / "table.json")
    result = register(
        winner,
        decided,
        params,
        lineage=origin,
        metrics=metrics,
        predictions=predictions,
        report=report,
        card=card(read_model_json(winner), decided, scored, table, origin, params),
    )
    if result["superseded"]:
        say("{reason}; fix: {fix}".format(**result["superseded"]))
    write_json(registered, result)


def _of_this_run() -> dict[str, Any]:
    """The run's name and the seconds its steps took, where the driver keeps records."""
    if "GRAFT_RUN" not in os.environ:
        return {}
    run = Path(os.environ["GRAFT_RUN"])
    records = [read_json(path) for path in (run / "steps").glob("*.json")]
    return {
        "pipeline_run": run.name,
        "step_seconds": {record["step"]: record["seconds"] for record in records},
    }
