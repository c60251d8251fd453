"""The chain's steps in containers of this machine, through Kubeflow's DockerRunner.

Two things kfp's runner (2.16) leaves open are closed here. It takes a container that is gone before it was
asked for its status for a success, so `hold_to_outputs` looks at what was to be written. And Ctrl-C would
end the command but not the container, so containers carry the run's name as a label and are stopped by it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.errors import GraftError
from graft.files import read_json
from graft.params import Params
from graft.progress import say
from pipelines.container_options import RUN, container_options

if TYPE_CHECKING:
    from docker import DockerClient
    from kfp import dsl, local

REVISION = "org.opencontainers.image.revision"
_SECONDS_TO_STOP = 10


@contextmanager
def in_containers(
    params: Params, folder: str, run: Path, image: str
) -> Iterator[tuple[local.DockerRunner, dsl.base_component.BaseComponent]]:
    """A runner that gives each step its container, and the pipeline with this image; none outlives the body.

    Args:
        params: The whole of params.yaml.
        folder: The data: an absolute path or an address.
        run: The run's folder. GRAFT_RUN and GRAFT_HOME must be set.
        image: A name that the engine of this machine knows.

    Raises:
        GraftError: no engine answers, the image is not here, or weights are named by a path that begins
            with "~".
    """
    from kfp import local

    with closing(_engine()) as engine:
        name, found = _image(engine, image)
        _say_if_stale(name, found, params)
        (run / "artifacts").mkdir()  # kfp mounts it; the engine would make it, as root
        options = container_options(params, folder, run, image=found.id, engine=engine.info())
        try:
            yield local.DockerRunner(**options), pipeline_with(name)
        finally:
            _stop(engine, run)


def pipeline_with(image: str) -> dsl.base_component.BaseComponent:
    """The pipeline `retraining` with one image for every step."""
    from kfp import dsl
    from kfp.dsl import pipeline_context

    from pipelines.retraining import retraining

    @functools.wraps(retraining.pipeline_func)
    def with_image(*arguments: Any, **named: Any) -> None:
        retraining.pipeline_func(*arguments, **named)
        for task in pipeline_context.Pipeline.get_default_pipeline().tasks.values():
            task.set_container_image(image)

    spec = retraining.component_spec
    return dsl.pipeline(name=spec.name, description=spec.description)(with_image)


def hold_to_outputs(run: Path) -> None:
    """Look whether every step says that it succeeded and left all it was to write.

    Raises:
        GraftError: one did not, although the engine reported no failure.
    """
    from components.__main__ import STEPS, step_component

    for step in STEPS:
        task = step.replace("_", "-")
        outputs = step_component(step).component_spec.outputs or {}
        missing = [name for name in outputs if not list((run / "artifacts").glob(f"*/{task}/{name}"))]
        record = run / "steps" / f"{step}.json"
        succeeded = record.is_file() and read_json(record)["status"] == "succeeded"
        if missing or not succeeded:
            raise GraftError(
                f"{step}: its container is gone without {', '.join(missing) or 'the record of its success'}",
                f"read {run / 'log.txt'}; a container that ends without a word was mostly killed for want of "
                "memory, so give the engine more, or the step a smaller batch_size",
            )


def _engine() -> DockerClient:
    import docker

    try:
        return docker.from_env()  # asks for its version
    except docker.errors.DockerException as error:
        if "PermissionError" in str(error):
            fix = "let your user use it: sudo usermod -aG docker $USER, and log in again"
        else:
            fix = "install and start Docker, or set DOCKER_HOST; or run without it: --runner subprocess"
        raise GraftError(f"no Docker engine answers: {_first_line(error)}", fix) from error


def _image(engine: DockerClient, named: str) -> tuple[str, Any]:
    """The image and a name under which kfp finds it here; any other name it would go and pull."""
    import docker

    try:
        found = engine.images.get(named)
    except docker.errors.DockerException as error:
        raise GraftError(
            f"the image {named!r} is not on this machine: {_first_line(error)}",
            "build it with `make images`, fetch it with `docker pull`, or name another: --image NAME",
        ) from error
    names = [*found.tags, *(found.attrs.get("RepoDigests") or ())]
    if not names:
        raise GraftError(f"the image {named!r} has no name", f"give it one: docker tag {named} graft-python")
    return next((name for name in (named, f"{named}:latest") if name in names), names[0]), found


def _say_if_stale(name: str, image: Any, params: Params) -> None:
    """Steps run the image's code, whatever lies in the working folder."""
    from graft.steps.lineage import lineage

    built, here = (image.labels or {}).get(REVISION, "unknown"), lineage(params)["git_commit"]
    if here != "unknown" and (built != here or here.endswith("+changes")):
        say(f"{name} was built from {built}, the code here is {here}; `make images` builds it anew")


def _stop(engine: DockerClient, run: Path) -> None:
    import docker

    for container in engine.containers.list(filters={"label": f"{RUN}={run.name}"}):
        say("stopping the step's container")
        try:
            container.stop(timeout=_SECONDS_TO_STOP)
        except docker.errors.NotFound:  # it ended by itself
            continue


def _first_line(error: Exception) -> str:
    text = str(getattr(error, "explanation", None) or error).strip()
    return (text or type(error).__name__).splitlines()[0]
