"""A run on a cluster: compiled, uploaded as a version, started."""

from __future__ import annotations

import tempfile
import uuid
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.errors import GraftError
from graft.params import Params
from pipelines.environment import exported

if TYPE_CHECKING:
    from pipelines.kubeflow import Server


def package(
    params: Params, data: str, file: Path, *, image: str | None = None, allow_tag: bool = False
) -> dict[str, Any]:
    """Compile the pipeline for one set of parameters.

    The commit travels with the run's parameters and not in the pipeline, so that a commit that changes
    nothing makes no new version.

    Args:
        data: An address, or a folder in the pods; see `data_address`.
        file: Gets the compiled pipeline.
        image: Of every step; else section `cluster`'s, else GRAFT_IMAGE.
        allow_tag: Take an image without digest.

    Returns:
        The parameters of a run.

    Raises:
        GraftError: the image has no digest, or the parameters cannot be compiled.
    """
    from graft.steps.lineage import lineage
    from pipelines.cluster import chosen_image, require_digest
    from pipelines.compiling import compile_pipeline

    named = chosen_image(params, image)
    if not allow_tag:
        require_digest(named)
    with exported({"GRAFT_GIT_COMMIT": "see the run's parameters"}):
        compile_pipeline(file, params, image=named, folder=data)
    return {"folder": data, **params.sections(), "lineage": lineage(params)}


def data_address(data: str) -> str:
    """Data as pods understand it: a .dvc file and a Git revision become the version that they name.

    Raises:
        GraftError: it is a relative path, which means something else in a pod, or no address.
    """
    from graft.storage.addresses import is_address
    from graft.storage.revisions import settle

    if is_address(data) or data.endswith(".dvc"):
        return settle(data)
    if not Path(data).is_absolute():
        raise GraftError(
            f"--data: {data} is a folder of this machine, which the pods do not see",
            "give s3://bucket/prefix, a .dvc file, git+URL@REVISION, or a folder in the pods, from / on",
        )
    return data


def submit(
    server: Server,
    params: Params,
    data: str,
    *,
    experiment: str,
    image: str | None = None,
    allow_tag: bool = False,
) -> str:
    """Start a run.

    Args:
        data: As `data_address` returns it.
        experiment: Its name; made where there is none.

    Returns:
        The run's id.

    Raises:
        GraftError: as `package`, and what the server refuses.
    """
    from pipelines.kubeflow import experiment_id, upload
    from pipelines.kubeflow_runs import start_run

    with tempfile.TemporaryDirectory(prefix="graft-") as folder:
        file = Path(folder) / "retraining.yaml"
        parameters = package(params, data, file, image=image, allow_tag=allow_tag)
        version = upload(server, file)
    moment = datetime.now(timezone.utc).strftime("%Y-%m-%d-%H%M%S")
    name = f"{params.registry.model_name}-{moment}-{uuid.uuid4().hex[:8]}"
    return start_run(server, version, experiment_id(server, experiment), name, parameters)
