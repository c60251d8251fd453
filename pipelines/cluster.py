"""The DAG as a cluster runs it: the same tasks, each with its image, its resources and its cache.

kfp turns a pipeline function into its specification while it decorates it, so whatever a task is to get
must be said inside that function. `on_cluster` therefore decorates the very function of
pipelines/retraining.py once more, with the tasks laid out after that function has made them: kfp's
current pipeline holds them by name. The DAG stays one function, and the local runner, which refuses such
calls on a task, never sees them.

Kubeflow's cache. Its driver takes outputs from an earlier task of equal fingerprint: a SHA-256 over image,
command, parameter values, the ids of the input artifacts and the names of mounted claims. The code is in
the image, a step's section is a parameter, and an artifact made anew has a new id; so with an image named
by digest the fingerprint is exactly what a step's outputs depend on. kfp's own `cache_key` is not used:
older servers leave it aside, and newer ones (kubeflow/pipelines, pull request 13762 of 2026) take it
*instead of* the fingerprint, so that a step whose inputs changed would be answered with its old outputs.

A fingerprint does not see what a name stands for. So the cache is off for a step that asks the registry,
for data without md5 in its address, for weights without sha256, and everywhere if the image has no digest.
A run may be given other arguments than the pipeline was compiled with; the steps refuse those that would
make the cache lie (graft/steps/running.py), so what may be stale is never kept.

Beside it a step keeps its outputs by content where GRAFT_HOME is a volume that pods share. That cache knows
data by its bytes: after a data_validation that ran again but found the same, the later steps start and
end at once.
"""

from __future__ import annotations

import functools
import re
from typing import Any

from kfp import dsl, kubernetes
from kfp.dsl import pipeline_context

from components.base import IMAGE
from components.feature_shard import feature_shard
from graft.errors import GraftError
from graft.params import Params, StepResources, parse
from graft.params.cluster import Source, Volume, laid_over
from graft.steps.pinning import loose_names, names_content
from pipelines.chain import ASKS_THE_REGISTRY
from pipelines.retraining import retraining

GPU = "nvidia.com/gpu"


def on_cluster(params: Params, image: str, folder: str | None) -> dsl.base_component.BaseComponent:
    """The pipeline `retraining` with every task laid out for a cluster.

    Args:
        params: Section `cluster` lays out; the other sections say which steps may be cached.
        image: Of every step.
        folder: The data's address, if it is known.

    Raises:
        GraftError: default and step contradict each other, or caching is asked for where it would lie.
    """

    @functools.wraps(retraining.pipeline_func)
    def laid_out(*arguments: Any, **named: Any) -> None:
        retraining.pipeline_func(*arguments, **named)
        tasks = pipeline_context.Pipeline.get_default_pipeline().tasks
        fan_out(tasks["feature-extraction"], params)
        for name, task in tasks.items():
            step = step_of(name)
            lay_out(task, resources_of(params, step), image, cached=cached(params, step, image, folder))

    spec = retraining.component_spec
    return dsl.pipeline(name=spec.name, description=spec.description)(laid_out)


def fan_out(extraction: dsl.PipelineTask, params: Params) -> None:
    """Let several tasks extract features before the one that gathers them from the store and fits the probe.

    Raises:
        GraftError: there is no store that they have in common.
    """
    count = params.cluster.feature_shards
    if count == 1:
        return
    if params.feature_extraction.store is None:
        raise GraftError(
            f"cluster.feature_shards is {count}, but feature_extraction.store names no place for them",
            "set it to s3://bucket/prefix, or to a folder on a volume that all pods share",
        )
    for number in range(count):
        extraction.after(feature_shard(**extraction.inputs, number=number, count=count))


def step_of(task: str) -> str:
    """The step whose resources and cache a task has; kfp numbers tasks of one component."""
    return "feature_extraction" if task.startswith("feature-shard") else task.replace("-", "_")


def chosen_image(params: Params, image: str | None = None) -> str:
    """The image of the steps: given, else of section `cluster`, else GRAFT_IMAGE."""
    return image or params.cluster.image or IMAGE


def has_digest(image: str) -> bool:
    """Whether an image is named by its content, name@sha256:..., rather than by a tag that may move."""
    return re.fullmatch(r"[^@\s]+@sha256:[0-9a-f]{64}", image) is not None


def require_digest(image: str) -> None:
    """Hold an image to a name that always means the same.

    Raises:
        GraftError: it is named by a tag.
    """
    if not has_digest(image):
        raise GraftError(
            f"the image {image!r} is named by a tag, which may be another image tomorrow",
            "give NAME@sha256:<64 hex digits> in cluster.image, GRAFT_IMAGE or --image (docker inspect says "
            "it under RepoDigests), or --allow-tag, which switches Kubeflow's cache off",
        )


def resources_of(params: Params, step: str) -> StepResources:
    """What a step gets: section `cluster`'s defaults with the step's own on top.

    Raises:
        GraftError: together they are not valid, such as a request above the default's limit.
    """
    own = getattr(params.cluster.steps, step).model_dump()
    together = laid_over(params.cluster.defaults.model_dump(), own)
    return parse(StepResources, together, f"cluster: defaults and steps.{step} together")


def cached(params: Params, step: str, image: str, folder: str | None) -> bool:
    """Whether Kubeflow may answer for a step with an earlier task's outputs.

    Raises:
        GraftError: the step's own `caching` is on where an answer may be stale.
    """
    if resources_of(params, step).caching is False:
        return False
    reason = why_not_cached(params, step, image, folder)
    if reason and getattr(params.cluster.steps, step).caching:
        raise GraftError(
            f"cluster.steps.{step}.caching is on, but {reason[0]}",
            f"{reason[1]}, or leave `caching` out: it is then on wherever it may be",
        )
    return reason is None


def why_not_cached(params: Params, step: str, image: str, folder: str | None) -> tuple[str, str] | None:
    """Why Kubeflow's cache could answer with old results for a step, and what would mend it; else None."""
    if step in ASKS_THE_REGISTRY:
        return "the step asks the model registry, which changes between runs", "let it run"
    if not has_digest(image):
        return f"the image {image!r} is named by a tag, which may move", "name the image by its digest"
    if step == "data_validation" and not names_content(folder or ""):
        named = f"the data's address {folder!r} holds no md5" if folder else "the data is named at run time"
        return named, "give --data with the md5 of a DVC version"
    loose = list(loose_names(params.sections().get(step)))
    if loose:
        return f"its weights may change behind their name: {', '.join(loose)}", "give their sha256"
    return None


def lay_out(task: dsl.PipelineTask, resources: StepResources, image: str, *, cached: bool) -> None:
    """Give one task its image, caching, resources, place, credentials, storage and patience."""
    task.set_container_image(image)
    task.set_env_variable("GRAFT_IMAGE", image)
    task.set_caching_options(enable_caching=cached)
    if cached:
        task.set_env_variable("GRAFT_KFP_CACHE", "on")
    _size(task, resources)
    for label, value in resources.node_selector.items():
        kubernetes.add_node_selector(task, label, value)
    for one in resources.tolerations:
        kubernetes.add_toleration(task, one.key, one.operator, one.value, one.effect, one.seconds)
    for secret in resources.secrets:
        _add_secret(task, secret)
    for config_map in resources.config_maps:
        _add_config_map(task, config_map)
    for number, volume in enumerate(resources.volumes):
        _add_volume(task, volume, f"volume-{number}")
    _be_patient(task, resources)


def _size(task: dsl.PipelineTask, resources: StepResources) -> None:
    wanted = {
        task.set_cpu_request: resources.cpu.request,
        task.set_cpu_limit: resources.cpu.limit,
        task.set_memory_request: resources.memory.request,
        task.set_memory_limit: resources.memory.limit,
    }
    for setter, amount in wanted.items():
        if amount is not None:
            setter(amount)
    if resources.accelerator.count:
        task.set_accelerator_type(resources.accelerator.type or GPU)
        task.set_accelerator_limit(resources.accelerator.count)
    if resources.shm is not None:
        kubernetes.empty_dir_mount(task, "shm", "/dev/shm", medium="Memory", size_limit=resources.shm)


def _add_secret(task: dsl.PipelineTask, secret: Source) -> None:
    if secret.mount_path:
        kubernetes.use_secret_as_volume(task, secret.name, secret.mount_path)
    else:
        kubernetes.use_secret_as_env(task, secret.name, secret.keys)


def _add_config_map(task: dsl.PipelineTask, config_map: Source) -> None:
    if config_map.mount_path:
        kubernetes.use_config_map_as_volume(task, config_map.name, config_map.mount_path)
    else:
        kubernetes.use_config_map_as_env(task, config_map.name, config_map.keys)


def _add_volume(task: dsl.PipelineTask, volume: Volume, name: str) -> None:
    if volume.pvc:
        kubernetes.mount_pvc(task, volume.pvc, volume.mount_path, volume.sub_path)
    else:
        kubernetes.add_ephemeral_volume(
            task, name, volume.mount_path, [volume.access_mode], volume.size, volume.storage_class
        )


def _be_patient(task: dsl.PipelineTask, resources: StepResources) -> None:
    if resources.timeout_seconds is not None:
        kubernetes.set_timeout(task, resources.timeout_seconds)
    retries = resources.retries
    if retries.count:
        wait, longest = retries.backoff_seconds, retries.max_backoff_seconds
        task.set_retry(
            retries.count,
            backoff_duration=None if wait is None else f"{wait}s",
            backoff_factor=retries.factor,
            backoff_max_duration=None if longest is None else f"{longest}s",
        )
