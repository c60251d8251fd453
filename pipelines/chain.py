"""The steps that lead to an artifact, and running one of them in this process.

An output and the inputs it feeds have the same name, so the components' signatures hold every edge.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ASKS_THE_REGISTRY = ("evaluation", "model_registration")  # so nothing answers for them but they themselves


@dataclass(frozen=True)
class Step:
    """A step, as its component's signature says.

    Attributes:
        name: As in components.
        sections: Of params.yaml.
        inputs, outputs: Names of artifacts.
    """

    name: str
    sections: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@cache
def steps_to(artifact: str) -> tuple[Step, ...]:
    """The steps an artifact depends on, in the order they run; the last one makes it."""
    from components.__main__ import STEPS

    needed, chosen = {artifact}, []
    for step in reversed([_read_step(name) for name in STEPS]):
        if needed.intersection(step.outputs):
            needed.update(step.inputs)
            chosen.append(step)
    return tuple(reversed(chosen))


def sections_of(steps: Sequence[Step]) -> list[str]:
    """The sections of params.yaml that the steps read."""
    return [section for step in steps for section in step.sections]


def unaffected(steps: Sequence[Step], sections: Collection[str]) -> list[Step]:
    """The steps whose outputs stay the same when these sections change."""
    changed: set[str] = set()
    same = []
    for step in steps:
        if set(step.sections) & set(sections) or set(step.inputs) & changed:
            changed.update(step.outputs)
        else:
            same.append(step)
    return same


def run_here(step: Step, params: Path, folder: str | Path, artifacts: Path) -> None:
    """Run a step in this process; its artifacts are entries of `artifacts`, by name.

    Raises:
        GraftError: what the step found wrong with its parameters or inputs.
    """
    from components.__main__ import run

    artifacts.mkdir(parents=True, exist_ok=True)
    options = ["--params", str(params)]
    for name in (*step.inputs, *step.outputs):
        options += [f"--{name}", str(folder if name == "folder" else artifacts / name)]
    run(step.name, options)


def _read_step(name: str) -> Step:
    from components.__main__ import step_component

    spec = step_component(name).component_spec
    inputs = spec.inputs or {}
    sections = [key for key, value in inputs.items() if value.type in ("Dict", "STRUCT")]
    others = [key for key in inputs if key not in sections]
    return Step(name, tuple(sections), tuple(others), tuple(spec.outputs or {}))
