"""Step: the winner becomes a registered version with its lineage."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graft.files import read_json, write_json
from graft.images.table import read_table
from graft.params import Registry, parse
from graft.registry.registration import register
from graft.steps.running import run_step


def run(
    *,
    registry: Mapping[str, Any],
    lineage: Mapping[str, Any],
    images: str,
    network: str,
    scores: str,
    predictions: str,
    winner: str,
    decision: str,
    report: str,
    registered: str,
) -> None:
    """See components/model_registration.py."""
    inputs = {"images": images, "network": network, "scores": scores, "predictions": predictions}
    run_step(
        "model_registration",
        _register,
        settings={"registry": registry, "lineage": lineage},
        inputs={**inputs, "winner": winner, "decision": decision, "report": report},
        outputs={"registered": registered},
        reusable=False,  # the registry may have changed
    )


def _register(
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
