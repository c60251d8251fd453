"""Why a step would run, or would not: what changed against the record of an earlier local run."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from graft.errors import GraftError
from graft.files import read_json
from graft.params import Params
from pipelines.chain import ASKS_THE_REGISTRY, Step


@dataclass(frozen=True)
class Verdict:
    """What a step would do in the next run.

    Attributes:
        step: Its name.
        outcome: "reused" and "runs" are certain. "depends" is said of a step that reads what an earlier step
            has yet to make: it runs unless some earlier run made its outputs from the same.
        reasons: Lines such as "params: fine_tuning.epochs 12 -> 3"; each begins with what changed: code,
            params, inputs or image.
    """

    step: str
    outcome: Literal["reused", "runs", "depends"]
    reasons: tuple[str, ...]


def explain(run: Path, params: Params, folder: str) -> list[Verdict]:
    """Say of every step whether a run with these parameters and data would run it, and why.

    Nothing runs; the data and kept outputs are read for their digests.

    Args:
        run: The earlier run, such as runs/latest.
        params: Of the next run.
        folder: The next run's data.

    Raises:
        GraftError: there is no such run, or it was made before records held what outputs depend on.
    """
    from graft.steps.running import input_digest
    from graft.storage.revisions import settle
    from pipelines.chain import steps_to

    records = _records(run)
    home = Path(os.environ.get("GRAFT_HOME", run.resolve().parent.parent / ".graft")).absolute()
    digests: dict[str, str | None] = {"folder": input_digest(settle(folder))}
    verdicts = []
    for step in steps_to("registered"):
        verdict, outputs = _judge(step, records.get(step.name), settings_in(step, params), digests, home)
        verdicts.append(verdict)
        digests |= outputs
    return verdicts


def _judge(
    step: Step,
    record: Mapping[str, Any] | None,
    settings: dict[str, Any],
    digests: Mapping[str, str | None],
    home: Path,
) -> tuple[Verdict, dict[str, str | None]]:
    """A step's verdict, and the digests of its outputs as far as they are known before it runs."""
    from graft.steps.running import input_digest, kept_at, key_parts, reuse_key

    known = {name: digest for name in step.inputs if (digest := digests[name]) is not None}
    open_inputs = [name for name in step.inputs if name not in known]
    parts = key_parts(step.name, settings, known)
    reasons = list(_differences(record, parts))
    unknown: dict[str, str | None] = dict.fromkeys(step.outputs)
    if always := why_always(step.name, settings):
        return Verdict(step.name, "runs", (f"always: {always}", *reasons)), unknown
    if open_inputs:
        doubt = f"inputs: {', '.join(open_inputs)} may change, since an earlier step runs"
        return Verdict(step.name, "depends", (*reasons, doubt)), unknown
    kept = kept_at(home, step.name, reuse_key(parts))
    if kept.is_dir():
        told = ("equal to a run before that one", *reasons) if reasons else ("nothing changed",)
        return Verdict(step.name, "reused", told), {
            name: input_digest(str(kept / name)) for name in step.outputs
        }
    return Verdict(step.name, "runs", tuple(reasons) or (f"its outputs are not kept in {home}",)), unknown


def why_always(step: str, settings: Mapping[str, Any]) -> str | None:
    """Why a step's component lets nothing be reused; None where it does."""
    from graft.steps.pinning import WEIGHTS, loose_names

    if step in ASKS_THE_REGISTRY:
        return "it asks the model registry, which changes between runs"
    if loose := list(loose_names(settings, WEIGHTS)):
        return f"{loose[0]} may name other weights by now; their sha256 would settle it"
    return None


def _records(run: Path) -> dict[str, Any]:
    if not (run / "steps").is_dir():
        raise GraftError(f"{run} is no run: it has no records in {run / 'steps'}", "graft retrain makes one")
    records = {path.stem: read_json(path) for path in sorted((run / "steps").glob("*.json"))}
    if not any("parts" in record for record in records.values()):
        raise GraftError(
            f"the records of {run} do not say what the outputs depended on: an older graft wrote them",
            "run graft retrain once, then ask again",
        )
    return records


def settings_in(step: Step, params: Params) -> dict[str, Any]:
    """What of the parameters a step's outputs depend on, as its component says."""
    from graft.steps.lineage import lineage
    from graft.steps.warm_start import settings_of

    values = {**params.sections(), "lineage": lineage(params)}
    settings = {name: values[name] for name in step.sections}
    return settings_of(**settings) if step.name == "fine_tuning" else settings


def _differences(record: Mapping[str, Any] | None, parts: Mapping[str, Any]) -> Iterator[str]:
    """What is other than in that run, one line each."""
    before = (record or {}).get("parts")
    if before is None:
        yield "it did not get as far in that run"
        return
    if before["code"] != parts["code"]:
        yield "code: a file of graft changed"
    if before["image"] != parts["image"]:
        yield f"image: {before['image'] or 'none'} -> {parts['image'] or 'none'}"
    old, new = _leaves(before["settings"]), _leaves(parts["settings"])
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key) and not key.startswith("lineage."):
            yield f"params: {key} {old.get(key, 'not set')} -> {new.get(key, 'not set')}"
    for name, digest in parts["inputs"].items():
        if before["inputs"].get(name) != digest:
            yield f"inputs: {name}"
    if record is not None and record["status"] != "succeeded":
        yield f"it {record['status']} in that run"


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every value of nested mappings, by its keys with dots."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            found |= _leaves(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found
