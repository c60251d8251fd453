"""Step: the winner becomes a registered version with its lineage."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graft.files import read_json, write_json
from graft.images.table import read_table
from graft.params import Registry, parse
from graft.progress import say
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
    origin = {
        **lineage,
        "data_md5": read_table(images).data_md5,
        "backbone_sha256": read_json(network / "backbone.json")["weights_sha256"],
        **_of_this_run(),
    }
    candidates = read_json(scores)["candidates"]
    metrics = {f"accuracy.{name}": numbers["accuracy"] for name, numbers in candidates.items()}
    result = register(
        winner,
        read_json(decision),
        parse(Registry, registry, "params: registry"),
        lineage=origin,
        metrics=metrics,
        predictions=predictions,
        report=report,
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
