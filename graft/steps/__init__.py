"""The eight steps as plain functions of paths and parameters; they know no Kubeflow and no DVC."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from graft.steps.running import run_step


def run(
    name: str,
    *,
    settings: Mapping[str, Any],
    inputs: Mapping[str, str],
    outputs: Mapping[str, str],
    reusable: bool = True,
) -> None:
    """Run the step `name`, the function `run` of its module here; `run_step` says what happens."""

    def find() -> Callable[..., Any]:
        function: Callable[..., Any] = importlib.import_module(f"graft.steps.{name}").run
        return function

    run_step(name, find, settings=settings, inputs=inputs, outputs=outputs, reusable=reusable)
