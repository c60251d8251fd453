"""KServe's InferenceService follows an alias of the registry.

MLflow moves an alias and tells nobody; KServe knows an address in S3 and no alias. Whatever runs `roll` from
time to time closes the gap: it reads where the alias points, and where the InferenceService says that it
stands, and patches the second when they differ. KServe then starts new pods beside the old ones, which serve
until the new ones do.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from graft.errors import GraftError
from graft.params import Registry

MODEL, VERSION = "graft/model", "graft/version"  # annotations of the InferenceService
_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_PROXIED = "mlflow-artifacts:"
_SECONDS = 15.0  # for one answer of Kubernetes
_ATTEMPTS = 3  # when others write the same object at the same time


@dataclass(frozen=True)
class Cluster:
    """Where Kubernetes answers, and as whom.

    Attributes:
        url: Of the API server, or of `kubectl proxy`.
        account: Folder with `token` and `ca.crt` of a service account; None where the URL asks for none.
    """

    url: str
    account: Path | None = None


@dataclass(frozen=True)
class Target:
    """What is served: a version and the folder with its files, as KServe fetches it."""

    model: str
    version: str
    address: str


def this_cluster() -> Cluster:
    """The cluster that this pod runs in.

    Raises:
        GraftError: this is no pod, or it has no service account's token.
    """
    host, port = (os.environ.get(f"KUBERNETES_SERVICE_{part}") for part in ("HOST", "PORT"))
    if not host or not (_ACCOUNT / "token").is_file():
        raise GraftError(
            f"this is not a pod of a cluster: there is no KUBERNETES_SERVICE_HOST or no {_ACCOUNT}/token",
            "give --api http://127.0.0.1:8001 and run `kubectl proxy`; in a pod, set "
            "automountServiceAccountToken: true",
        )
    named = f"[{host}]" if ":" in host else host
    return Cluster(f"https://{named}:{port or 443}", _ACCOUNT)


def target(params: Registry, alias: str, artifacts: str | None) -> Target:
    """Where an alias of the registered model `params.model_name` points.

    Args:
        artifacts: The s3:// address behind the server's artifact proxy: what `mlflow server` was given as
            --artifacts-destination. Not needed where versions name s3:// themselves.

    Raises:
        GraftError: there is no such model or alias, its files are in no S3 store, or MLflow cannot be used.
    """
    from graft.registry.versions import connected, find

    reference = f"{params.model_name}@{alias}"
    with connected(params, f"look for {reference}") as client:
        version = find(client, reference)
        stored = client.get_model_version_download_uri(version.name, str(version.version))
    return Target(version.name, str(version.version), in_store(stored, artifacts))


def in_store(stored: str, artifacts: str | None) -> str:
    """The s3:// address of a version's files.

    Args:
        stored: As MLflow says it: s3://..., or mlflow-artifacts:/path, the part below `artifacts`.

    Raises:
        GraftError: it is neither, or `artifacts` is needed and is no s3:// address.
    """
    if stored.startswith("s3://"):
        return stored
    if not stored.startswith(_PROXIED):
        raise GraftError(
            f"the model's files are at {stored}, where KServe cannot fetch them",
            "register it on an MLflow server whose artifacts are in S3 (`graft copy` takes it there)",
        )
    if not (artifacts or "").startswith("s3://"):
        raise GraftError(
            f"the model's files are at {stored}, behind MLflow's proxy, and --artifacts is {artifacts!r}",
            "give --artifacts or MLFLOW_ARTIFACTS_DESTINATION what the server has as "
            "--artifacts-destination: s3://bucket/path",
        )
    return f"{str(artifacts).rstrip('/')}/{urlsplit(stored).path.strip('/')}"


def roll(cluster: Cluster, namespace: str, name: str, wanted: Target) -> dict[str, Any]:
    """Let an InferenceService serve a version, if it does not yet.

    Its resourceVersion goes with the patch, so that what somebody else has just changed is read first.

    Returns:
        moved, from (the version it served before, None at the first time), to, address.

    Raises:
        GraftError: Kubernetes does not answer or refuses, there is no such InferenceService, or others kept
            changing it.
    """
    for _ in range(_ATTEMPTS):
        service = _ask(cluster, "GET", namespace, name)
        annotations = service["metadata"].get("annotations") or {}
        result = {"moved": False, "from": annotations.get(VERSION), "to": wanted.version}
        result["address"] = wanted.address
        change = patch(service, wanted)
        if change is None:
            return result
        if _ask(cluster, "PATCH", namespace, name, change):
            return {**result, "moved": True}
    raise GraftError(
        f"the InferenceService {namespace}/{name} was changed by others {_ATTEMPTS} times meanwhile",
        "see who writes it (kubectl get --show-managed-fields), then try again",
    )


def patch(service: dict[str, Any], wanted: Target) -> dict[str, Any] | None:
    """The merge patch that makes an InferenceService serve a version; None where it does."""
    annotations = service["metadata"].get("annotations") or {}
    model = service["spec"]["predictor"].get("model") or {}
    stands = (annotations.get(MODEL), annotations.get(VERSION), model.get("storageUri"))
    if stands == (wanted.model, wanted.version, wanted.address):
        return None
    return {
        "metadata": {
            "resourceVersion": service["metadata"]["resourceVersion"],
            "annotations": {MODEL: wanted.model, VERSION: wanted.version},
        },
        "spec": {"predictor": {"model": {"storageUri": wanted.address}}},
    }


def _ask(
    cluster: Cluster, method: str, namespace: str, name: str, change: dict[str, Any] | None = None
) -> dict[str, Any]:
    """What Kubernetes answers; empty where a patch came too late (409)."""
    import requests

    path = f"/apis/serving.kserve.io/v1beta1/namespaces/{quote(namespace)}/inferenceservices/{quote(name)}"
    headers, authority = {"Accept": "application/json"}, None
    if cluster.account:  # read anew: the kubelet renews the token
        headers["Authorization"] = f"Bearer {(cluster.account / 'token').read_text().strip()}"
        authority = str(cluster.account / "ca.crt")
    if change is not None:
        headers["Content-Type"] = "application/merge-patch+json"
    try:
        answer = requests.request(
            method,
            f"{cluster.url.rstrip('/')}{path}",
            headers=headers,
            data=None if change is None else json.dumps(change),
            verify=authority or True,
            timeout=_SECONDS,
        )
    except requests.RequestException as error:
        raise GraftError(
            f"Kubernetes at {cluster.url} does not answer: {type(error).__name__}",
            "see whether the network policy lets this pod reach the API server; the next run tries again",
        ) from error
    if answer.status_code == 409 and method == "PATCH":
        return {}
    if not answer.ok:
        raise _refused(cluster, method, namespace, name, answer.status_code, _message(answer.text))
    body: dict[str, Any] = answer.json()
    return body


def _message(text: str) -> str:
    """Of a Kubernetes Status object, or the first line of whatever came."""
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return (text.strip().splitlines() or ["no reason given"])[0][:300]


def _refused(
    cluster: Cluster, method: str, namespace: str, name: str, status: int, message: str
) -> GraftError:
    fixes = {
        401: "the service account's token is not accepted: see that the pod mounts one",
        403: f"let the pod's service account get and patch inferenceservices {name} in {namespace} (a Role)",
        404: f"apply it first (kubectl -n {namespace} get inferenceservices), or give --inference-service "
        "and --namespace",
        422: "see `graft history` and the InferenceService's own fields: KServe refuses the result",
    }
    return GraftError(
        f"Kubernetes at {cluster.url} answers {method} {namespace}/{name} with {status}: {message}",
        fixes.get(status, "see the API server's and KServe's logs; the next run tries again"),
    )
