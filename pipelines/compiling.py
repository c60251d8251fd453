"""The DAG as Kubeflow's intermediate representation, for a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from graft.errors import GraftError
from graft.files import whole_file
from graft.params import Params


def compile_pipeline(
    output: Path, params: Params, *, image: str | None = None, folder: str | None = None
) -> dict[str, Any]:
    """Compile the DAG with `params` as defaults of its parameters; the same again gives the same bytes.

    Args:
        output: The file to write.
        params: Section `cluster` says what the tasks get; every other section is a parameter.
        image: Of every step; else `chosen_image`. One without digest switches Kubeflow's cache off.
        folder: Default of the data's address. Only one with an md5 lets data_validation be cached, and
            with it what comes after.

    Returns:
        The pipeline specification that was written; a second document holds what is Kubernetes' own.

    Raises:
        GraftError: the section `cluster` contradicts itself, or the DAG holds something that the local
            runner would run differently.
    """
    from kfp import compiler

    from graft.steps.lineage import lineage
    from pipelines.cluster import chosen_image, on_cluster

    defaults: dict[str, Any] = {**params.sections(), "lineage": lineage(params)}
    if folder is not None:
        defaults["folder"] = folder
    pipeline = on_cluster(params, chosen_image(params, image), folder)
    with whole_file(output) as temporary:
        path = temporary.with_suffix(".yaml")  # kfp insists on the ending
        compiler.Compiler().compile(pipeline, str(path), pipeline_parameters=defaults)
        path.replace(temporary)
        spec: dict[str, Any] = next(iter(yaml.safe_load_all(temporary.read_text(encoding="utf-8"))))
        refuse_local_surprises(spec)
    return spec


def refuse_local_surprises(spec: dict[str, Any]) -> None:
    """Hold a compiled pipeline to what runs the same way in kfp's local runner.

    Raises:
        GraftError: a task has a condition, a loop, or an exit handler.
    """
    for dag in [spec["root"], *spec.get("components", {}).values()]:
        for name, task in dag.get("dag", {}).get("tasks", {}).items():
            policy = task.get("triggerPolicy", {})
            if policy.get("condition"):
                raise _refused(name, "dsl.If, which the local runner skips in silence")
            if policy.get("strategy") == "ALL_UPSTREAM_TASKS_COMPLETED":
                raise _refused(name, "dsl.ExitHandler, which the local runner does not implement")
            if "parameterIterator" in task or "artifactIterator" in task:
                raise _refused(name, "dsl.ParallelFor, whose results the local runner cannot collect")


def _refused(task: str, meaning: str) -> GraftError:
    return GraftError(
        f"the task {task!r} uses {meaning}",
        "let the step write an artifact that says why it does not apply",
    )
