"""What monitoring leaves behind: monitor.json with every number, monitor.html for people."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from graft.errors import GraftError
from graft.files import whole_folder, write_json
from graft.images.canvas import thumbnail
from graft.monitoring import pictures
from graft.monitoring.label_free import doubt
from graft.monitoring.monitor import EXIT_CODES, TESTS, Findings

FILES = {"monitor.json", "monitor.html"}
UNUSUAL = 16  # pictures
BROKEN = 20  # names on the page; monitor.json has all
CLASSES = 15  # rows
HEADLINES = {
    "fine": "Nothing calls for action",
    "drifted": "The images have changed; the accuracy is predicted to hold",
    "retrain": "The accuracy is predicted to fall: retrain",
}


def check_output(output: Path, images: Path) -> None:
    """Refuse a folder that holds anything but an earlier result, before any work is done.

    Raises:
        GraftError: it does, it is a file, or it lies among the new images.
    """
    if output.resolve().is_relative_to(images.resolve()):
        raise GraftError(
            f"--output: {output} lies in {images}, and would be among the new images next time",
            "give a folder elsewhere",
        )
    if output.exists() and not (output.is_dir() and {path.name for path in output.iterdir()} <= FILES):
        raise GraftError(f"--output: {output} exists and holds other things", "give a new or an empty folder")


def write_findings(findings: Findings, output: Path, *, model: str) -> dict[str, Any]:
    """Write both files, whole or not at all.

    Args:
        findings: What was found.
        output: The folder, replaced.
        model: Where the model came from, as the user named it.

    Returns:
        What is in monitor.json.
    """
    record = {"model": model, **as_json(findings)}
    html = _html(findings, record)
    with whole_folder(output) as temporary:
        write_json(temporary / "monitor.json", record)
        (temporary / "monitor.html").write_text(html, encoding="utf-8")
    return record


def as_json(findings: Findings) -> dict[str, Any]:
    """Every number, under the names of the dataclasses."""
    images, order = findings.images, np.argsort(-findings.distances, kind="stable")
    return {
        "status": findings.status,
        "exit_code": EXIT_CODES[findings.status],
        "reasons": list(findings.reasons),
        "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "images": {
            "folder": str(images.folder),
            "found": images.found,
            "used": len(images.paths),
            "broken": [{"path": path, "reason": reason} for path, reason in images.broken],
        },
        "reference": {
            "table": str(findings.table.path),
            "data_md5": findings.table.data_md5,
            "domain": findings.table.target,
            "images": len(findings.reference.features),
            "splits": list(findings.splits),
            "labelled_images": len(findings.held_out.features),
        },
        "classifier_test": asdict(findings.classifier),
        "mmd_test": asdict(findings.mmd),
        "accuracy": asdict(findings.accuracy),
        "predicted_classes": {
            "old": dict(zip(findings.classes, findings.shift.old.tolist(), strict=True)),
            "new": dict(zip(findings.classes, findings.shift.new.tolist(), strict=True)),
            "distance": findings.shift.distance,
            "p_value": findings.shift.p_value,
        },
        "unusual": [_unusual(findings, position) for position in order[:UNUSUAL].tolist()],
        "settings": {
            "alpha": findings.alpha,
            "alpha_each_test": findings.alpha / TESTS,
            "max_drop": findings.max_drop,
            "seed": findings.seed,
        },
    }


def summary(record: dict[str, Any]) -> str:
    """A few lines for the terminal."""
    images, accuracy = record["images"], record["accuracy"]
    apart, mmd = record["classifier_test"], record["mmd_test"]
    low, high = accuracy["interval"]
    lines = [
        f"{record['status']}: {'; '.join(record['reasons'])}",
        f"  images     {images['used']} new, {record['reference']['images']} for reference",
        f"  classifier {apart['accuracy']:.1%} told apart (guessing: 50.0%), p = {apart['p_value']:.2g}",
        f"  kernel     MMD {mmd['mmd']:.3f}, p = {mmd['p_value']:.2g}",
        f"  accuracy   {accuracy['measured']:.1%} measured, {accuracy['predicted']:.1%} predicted "
        f"({low:.1%} to {high:.1%})",
    ]
    lines += [f"  left out   {each['path']}: {each['reason']}" for each in images["broken"][:5]]
    if len(images["broken"]) > 5:
        lines.append(f"  left out   {len(images['broken']) - 5} more; monitor.json lists them")
    return "\n".join(lines)


def _unusual(findings: Findings, position: int) -> dict[str, Any]:
    predicted = int(findings.incoming.predicted[position])
    return {
        "path": findings.images.paths[position],
        "distance": float(findings.distances[position]),
        "predicted": findings.classes[predicted],
        "confidence": float(findings.incoming.probabilities[position, predicted]),
    }


def _html(findings: Findings, record: dict[str, Any]) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": _percent, "p": _p_text}
    return environment.get_template("monitor.html.j2").render(_contents(findings, record))


def _contents(findings: Findings, record: dict[str, Any]) -> dict[str, Any]:
    """Everything the template shows."""
    folder = findings.images.folder
    old, new = (1 - doubt(seen.probabilities) for seen in (findings.held_out, findings.incoming))
    shifts = np.abs(findings.shift.new - findings.shift.old)
    return {
        "record": record,
        "headline": HEADLINES[findings.status],
        "confidence": pictures.confidence_figure(old, new, findings.accuracy.threshold),
        "features": pictures.features_figure(findings.reference.features, findings.incoming.features),
        "unusual": [
            one | {"picture": thumbnail((folder / one["path"]).read_bytes())} for one in record["unusual"]
        ],
        "classes": [
            (findings.classes[i], findings.shift.old[i], findings.shift.new[i])
            for i in np.argsort(-shifts, kind="stable")[:CLASSES].tolist()
        ],
        "widest": float(max(findings.shift.old.max(), findings.shift.new.max())),
        "more_classes": max(0, len(shifts) - CLASSES),
        "broken": record["images"]["broken"][:BROKEN],
    }


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"


def _p_text(value: float) -> str:
    return "< 0.0001" if value < 0.0001 else f"{value:.4f}"
