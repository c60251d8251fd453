"""Weights from elsewhere, as files on this machine: S3, torchvision's server, an MLflow registry."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from graft.errors import GraftError
from graft.files import sha256_file
from graft.storage.objects import fetch_object

_OFFLINE = "without a network, give backbone.weights a file (.pth, .pt, .safetensors) or an s3:// address"


@contextmanager
def local_file(origin: str) -> Iterator[Path]:
    """The file that an address means: a path, or s3://bucket/key (fetched, and deleted afterwards).

    Raises:
        GraftError: there is no such file or object, or the server does not answer.
    """
    if not origin.startswith("s3://"):
        path = Path(origin).expanduser()
        if not path.is_file():
            raise GraftError(f"backbone.weights: the file {origin} does not exist", "correct the path")
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="graft-weights-") as folder:
        path = Path(folder) / Path(origin).name
        _fetch_s3(origin, path)
        yield path


def check_sha256(path: Path, prefix: str | None, origin: str) -> str:
    """A file's sha256.

    Args:
        path: The file.
        prefix: Hexadecimal digits that it must begin with; None asks for nothing.
        origin: How the user named the file, for the error.

    Raises:
        GraftError: it begins otherwise.
    """
    digest = sha256_file(path)
    if prefix and not digest.startswith(prefix):
        raise GraftError(
            f"backbone.weights: {origin} has sha256 {digest[: max(12, len(prefix))]}..., "
            f"but backbone.sha256 is {prefix}",
            "fetch the file again, or correct backbone.sha256 if this file is the one you want",
        )
    return digest


def torchvision_file(weights: Any) -> Path:
    """The file of a member of a torchvision weights enum, from torch's cache or torchvision's server.

    Its sha256 is checked against the digits in its name, whether it was cached or not.

    Raises:
        GraftError: it cannot be fetched, or what is cached is not whole.
    """
    import torch.hub

    name = Path(urlsplit(weights.url).path).name
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    prefix = hash_in_name(name)
    if not path.is_file():
        _download(weights.url, path, prefix)
    elif prefix and not sha256_file(path).startswith(prefix):
        raise GraftError(
            f"the cached weights {path} are not whole: their sha256 does not begin with {prefix}",
            f"delete {path} and run again",
        )
    return path


def hash_in_name(name: str) -> str | None:
    """The digits of sha256 that PyTorch puts in a file's name, as in resnet18-f37072fd.pth."""
    found = re.search(r"-([0-9a-f]{8,})\.", name)
    return found.group(1) if found else None


def mlflow_model(uri: str, folder: Path) -> Path:
    """Fetch a registered model's artifacts; the folder among them that holds a classifier.

    Args:
        uri: models:/name@alias or models:/name/version; the server is MLFLOW_TRACKING_URI's.
        folder: Where the artifacts go.

    Raises:
        GraftError: no such model, no answer, or a model that graft did not register.
    """
    import mlflow
    import requests

    try:
        with _few_retries():
            mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(folder))
    except (mlflow.MlflowException, requests.RequestException, OSError) as error:
        server = mlflow.get_tracking_uri()
        raise GraftError(
            f"backbone.weights: {uri} cannot be fetched from {server}: {_first_line(error)}",
            "check the name, alias or version, and that MLFLOW_TRACKING_URI is the server that holds it",
        ) from error
    for description in sorted(folder.rglob("model.json")):
        if (description.parent / "weights.safetensors").is_file():
            return description.parent
    raise GraftError(
        f"backbone.weights: {uri} holds no model.json with weights.safetensors",
        "name a model that graft registered",
    )


@contextmanager
def _few_retries() -> Iterator[None]:
    """MLflow retries for four minutes unless told otherwise; a wrong address should show sooner."""
    name = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
    chosen = name in os.environ
    os.environ.setdefault(name, "2")
    try:
        yield
    finally:
        if not chosen:
            del os.environ[name]


def _download(url: str, path: Path, prefix: str | None) -> None:
    import torch.hub

    path.parent.mkdir(parents=True, exist_ok=True)
    try:  # it writes beside the destination, checks the hash, then renames
        torch.hub.download_url_to_file(url, str(path), hash_prefix=prefix)
    except (OSError, RuntimeError) as error:  # no network is a URLError, an OSError
        raise GraftError(f"{url} cannot be fetched: {_first_line(error)}", _OFFLINE) from error


def _fetch_s3(origin: str, path: Path) -> None:
    try:
        fetch_object(origin, path)
    except GraftError as error:
        raise GraftError(f"backbone.weights: {error.problem}", error.fix) from error


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
