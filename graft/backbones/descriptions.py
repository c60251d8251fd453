"""The JSON beside weights: what a candidate is, or why there is none. Read without loading a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from graft.errors import GraftError
from graft.files import read_json, write_json

FORMAT = "graft-classifier-1"


def read_model_json(folder: str | Path) -> dict[str, Any]:
    """The description of a candidate: a classifier, or why there is none.

    Raises:
        GraftError: there is no model.json, it is not whole, or another program wrote it.
    """
    path = Path(folder) / "model.json"
    again = "run the step that trains this model again"
    values = read_description(path, again)
    if "skipped" in values:
        return values
    missing = {"format", "method", "classes", "backbone", "head", "weights_sha256"} - values.keys()
    if missing or values["format"] != FORMAT:
        wrong = f"lacks {', '.join(sorted(missing))}" if missing else f"has format {values['format']!r}"
        raise GraftError(f"{path} {wrong}: it does not describe a classifier of this graft", again)
    return values


def write_skipped(folder: str | Path, reason: str) -> None:
    """Say in a candidate's folder that there is no model, and why."""
    write_json(Path(folder) / "model.json", {"skipped": reason})


def skipped(folder: str | Path) -> str | None:
    """Why this candidate has no model; None where it has one.

    Raises:
        GraftError: the folder holds neither.
    """
    return read_model_json(folder).get("skipped")


def read_description(path: Path, fix: str) -> dict[str, Any]:
    """The JSON object beside a weights file.

    Raises:
        GraftError: it is missing (an unfinished write leaves none) or not JSON.
    """
    if not path.is_file():
        raise GraftError(f"{path} does not exist: nothing whole was written in {path.parent}", fix)
    try:
        values = read_json(path)
    except ValueError as error:
        raise GraftError(f"{path} is not JSON: {error}", fix) from error
    if not isinstance(values, dict):
        raise GraftError(f"{path} holds a {type(values).__name__}, not an object", fix)
    return values
