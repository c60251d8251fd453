"""Any step from the command line: `python -m components STEP --images PATH ...`.

The options are made from the component's own signature, so what DVC runs and what Kubeflow runs
cannot disagree about what a step is. An argument that is a section of params.yaml is read from there.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from kfp import dsl

from graft.errors import GraftError
from graft.params import Params, read_params
from graft.steps.lineage import lineage

STEPS = (
    "data_validation",
    "backbone",
    "augmentation",
    "feature_extraction",
    "fine_tuning",
    "domain_adaptation",
    "evaluation",
    "model_registration",
)


def step_component(step: str) -> dsl.base_component.BaseComponent:
    """The component of a step."""
    return getattr(importlib.import_module(f"components.{step}"), step)


def step_parser(step: str) -> argparse.ArgumentParser:
    """A parser with one required option for each argument that params.yaml does not give."""
    spec = step_component(step).component_spec
    parser = argparse.ArgumentParser(prog=f"python -m components {step}", description=spec.description)
    parser.add_argument("--params", action="append", metavar="FILE", help="default: params.yaml")
    for name, value in {**(spec.inputs or {}), **(spec.outputs or {})}.items():
        if not _from_params(value.type):
            parser.add_argument(f"--{name}", required=True, metavar="PATH", help=value.description)
    return parser


def run(step: str, options: Sequence[str]) -> None:
    """Run one step in this process.

    Raises:
        GraftError: what the step found wrong with its parameters or inputs.
    """
    component = step_component(step)
    given = vars(step_parser(step).parse_args(options))
    params = read_params(given["params"] or ["params.yaml"])
    spec = component.component_spec
    arguments = {
        name: _from_section(name, params) if _from_params(value.type) else _from_path(value.type, given[name])
        for name, value in {**(spec.inputs or {}), **(spec.outputs or {})}.items()
    }
    component.python_func(**arguments)


def _from_params(kind: str) -> bool:
    return kind in ("Dict", "STRUCT")


def _from_section(name: str, params: Params) -> dict:
    return lineage(params) if name == "lineage" else params.sections()[name]


def _from_path(kind: str, path: str) -> str | dsl.Artifact:
    return _Given(uri=path) if kind.startswith("system.") else path


class _Given(dsl.Artifact):
    """An artifact where the command line says it is: Kubeflow's own would turn s3:// into a mount."""

    @property
    def path(self) -> str:
        return self.uri


def main(arguments: Sequence[str]) -> int:
    """Exit status 0, or 1 with the problem and its fix on stderr."""
    if not arguments or arguments[0] not in STEPS:
        print(f"usage: python -m components STEP [--help]\nSTEP: {', '.join(STEPS)}", file=sys.stderr)
        return 0 if arguments[:1] == ["--help"] else 2
    os.environ.setdefault("GRAFT_HOME", ".graft")  # so that a killed step goes on where it stopped
    try:
        run(arguments[0], arguments[1:])
    except GraftError as error:
        print(f"{arguments[0]}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{arguments[0]}: interrupted; run it again to go on where it stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
