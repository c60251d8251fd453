"""What to do so that a server's recurring runs are those of schedules.yaml.

Recurring runs cannot be changed. A schedule that differs is made anew, then the old one is disabled and
deleted; so there is always one that is enabled, and whoever stops in the middle is continued by the next
plan, which sees two of that name and retires the one that is not wanted.

Ours carry a mark in their description: project, name, and the SHA-256 of what was wanted.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pipelines.schedules import Schedule, instant

Kind = Literal["keep", "create", "replace", "enable", "disable", "retire"]
Fields = Mapping[str, Any]

_MARK = re.compile(r"graft-schedule (?P<project>\S+)/(?P<name>\S+) sha256:(?P<digest>[0-9a-f]{64})")


@dataclass(frozen=True)
class Wanted:
    """A recurring run that should be there.

    Attributes:
        parameters: Of the pipeline, by name. The lineage among them tells of the commit; it alone makes no
            difference, since what runs is the pipeline's image. Otherwise each commit would replace
            every schedule, and a daily one would never come to run.
        pipeline: The name of the version, by its content.
        package: The compiled pipeline.
    """

    project: str
    schedule: Schedule
    parameters: Mapping[str, Any]
    pipeline: str
    package: Path

    @property
    def fields(self) -> dict[str, Any]:
        """What makes a difference, flat."""
        one = self.schedule
        return {
            "cron": one.cron,
            "interval_seconds": one.interval_seconds,
            "start": instant(one.start),
            "end": instant(one.end),
            "catch_up": one.catch_up,
            "max_concurrency": one.max_concurrency,
            "experiment": one.experiment,
            "pipeline": self.pipeline,
            **parameter_fields(self.parameters),
        }

    @property
    def digest(self) -> str:
        """SHA-256 of the fields."""
        return hashlib.sha256(json.dumps(self.fields, sort_keys=True).encode()).hexdigest()

    @property
    def description(self) -> str:
        """For people, and for `read_mark`."""
        mark = f"graft-schedule {self.project}/{self.schedule.name} sha256:{self.digest}"
        return f"Made by `graft schedule apply`.\n{mark}\n{_about(self.schedule.experiment, self.pipeline)}"


@dataclass(frozen=True)
class Existing:
    """A recurring run of ours on the server."""

    run_id: str
    name: str
    digest: str
    enabled: bool
    fields: Fields = field(default_factory=dict)


@dataclass(frozen=True)
class Action:
    """One thing to do.

    Attributes:
        reasons: Why, field by field.
        run_id: Of the recurring run that is there; for `replace`, the one that goes.
        wanted: For `create` and `replace`.
    """

    kind: Kind
    name: str
    reasons: tuple[str, ...]
    run_id: str | None = None
    wanted: Wanted | None = None


def plan(wanted: Sequence[Wanted], existing: Sequence[Existing]) -> list[Action]:
    """What to do, in an order that never leaves a wanted schedule without an enabled recurring run."""
    actions: list[Action] = []
    for one in wanted:
        same = [each for each in existing if each.name == one.schedule.name]
        actions += _for_name(one, same)
    names = {one.schedule.name for one in wanted}
    for each in existing:
        if each.name not in names:
            actions.append(Action("retire", each.name, ("is not in the file any more",), each.run_id))
    return actions


def changes(actions: Sequence[Action]) -> list[Action]:
    """The actions that do something."""
    return [action for action in actions if action.kind != "keep"]


def read_mark(description: str | None, project: str) -> tuple[str, str, dict[str, Any]] | None:
    """Name, digest and noted fields of a description; None where the recurring run is not this project's."""
    found = _MARK.search(description or "")
    if found is None or found["project"] != project:
        return None
    noted = dict(re.findall(r"^(experiment|pipeline): (.*)$", description or "", re.MULTILINE))
    return found["name"], found["digest"], noted


def parameter_fields(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """A pipeline's parameters but for the lineage, flat; the data folder is called `data`."""
    sections = {key: value for key, value in parameters.items() if key not in ("folder", "lineage")}
    return {"data": parameters.get("folder"), **dict(_flat("params", sections))}


def _for_name(one: Wanted, same: Sequence[Existing]) -> Iterator[Action]:
    """First what makes the wanted one run, then what ends the others."""
    name, should = one.schedule.name, one.schedule.enabled
    right = sorted((each for each in same if each.digest == one.digest), key=lambda each: not each.enabled)
    wrong = sorted((each for each in same if each.digest != one.digest), key=lambda each: not each.enabled)
    if right:
        yield _switched(right[0], should)
    elif wrong:
        reasons = tuple(_differences(wrong[0].fields, one.fields)) or ("was made by another graft",)
        yield Action("replace", name, reasons, wrong.pop(0).run_id, one)
    else:
        yield Action("create", name, ("is not there yet",), wanted=one)
    for each in right[1:]:
        yield Action("retire", name, ("is there twice",), each.run_id)
    for each in wrong:
        yield Action("retire", name, ("is an older form of it",), each.run_id)


def _switched(there: Existing, should: bool) -> Action:
    if there.enabled == should:
        return Action("keep", there.name, (), there.run_id)
    kind: Kind = "enable" if should else "disable"
    return Action(kind, there.name, (f"enabled: {there.enabled} → {should}",), there.run_id)


def _differences(old: Fields, new: Fields) -> Iterator[str]:
    for key in sorted({*old, *new}):
        if old.get(key) != new.get(key):
            yield f"{key}: {_shown(old.get(key))} → {_shown(new.get(key))}"


def _shown(value: Any) -> str:
    return "not set" if value is None else value if isinstance(value, str) else json.dumps(value)


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The leaves; lists count as one."""
    if isinstance(value, Mapping) and value:
        for key, below in value.items():
            yield from _flat(f"{prefix}.{key}", below)
    else:
        yield prefix, value


def _about(experiment: str, pipeline: str) -> str:
    return f"experiment: {experiment}\npipeline: {pipeline}"
