"""A registered version's classifier, on this machine."""

from __future__ import annotations

import re
from pathlib import Path

from graft.errors import GraftError
from graft.params import Registry
from graft.registry.packaging import ARTIFACT
from graft.registry.tracking import is_new, reach, shown, tracking_uri, using

_FORM = "write models:/name@alias or models:/name/version"


def download(model: str, uri: str | None, folder: Path) -> Path:
    """Fetch the classifier's files of a registered version; no code of the model is run.

    Args:
        model: models:/name@alias or models:/name/version.
        uri: MLflow's; by default MLFLOW_TRACKING_URI, else mlflow.db in the working folder.
        folder: Where the files go.

    Returns:
        The classifier's folder in `folder`.

    Raises:
        GraftError: no such model, alias or version, no answer, or a model that graft did not register.
    """
    if not re.fullmatch(r"models:/[^/@:]+(@[^/@]+|/[^/@]+)", model):
        raise GraftError(f"{model!r} names no version of a model", _FORM)
    uri = tracking_uri(Registry(tracking_uri=uri))
    if is_new(uri):
        fix = "give --tracking-uri or set MLFLOW_TRACKING_URI to the MLflow that holds it"
        raise GraftError(f"{model} cannot be fetched: there is no MLflow yet at {shown(uri)}", fix)
    reach(uri)
    import mlflow
    import requests

    try:
        with using(uri):
            stored = f"{model}/artifacts/{ARTIFACT}"
            return Path(mlflow.artifacts.download_artifacts(stored, dst_path=str(folder)))
    except (mlflow.MlflowException, requests.RequestException, OSError) as error:
        text = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise GraftError(
            f"{model} cannot be fetched from {shown(uri)}: {text}",
            f"check name, alias or version, and that graft registered it; {_FORM}; "
            "another MLflow is named by --tracking-uri",
        ) from error
