"""The eight steps as plain functions of paths and parameters; they know no Kubeflow and no DVC."""

from __future__ import annotations

import atexit
import gc
import importlib
from collections.abc import Callable, Mapping
from typing import Any

from graft.steps.running import run_step

# As it ends, Python would search everything that torch, MLflow or Great Expectations made for cycles to
# free: 0.5 to 1.5 s a step, for memory that the system takes back anyway.
atexit.register(gc.freeze)


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
