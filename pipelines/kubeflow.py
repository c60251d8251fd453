"""Talking to a Kubeflow Pipelines server, through kfp's own client.

Connections break, and break after the server has done what it was asked. So what is created is looked for
first, by a name that only it can have, and everything is asked again after faults that pass.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import kfp
import kfp_server_api
from kfp import client as kfp_client
from kfp.client.set_volume_credentials import ServiceAccountTokenVolumeCredentials
from kfp_server_api.exceptions import ApiException
from urllib3.exceptions import HTTPError

from graft.errors import GraftError

T = TypeVar("T")

TOKEN = "GRAFT_KFP_TOKEN"
ATTEMPTS = 4
PASSING = {408, 409, 425, 429, 500, 502, 503, 504}  # 409: whoever was faster may have made what we look for
PIPELINE = "retraining"


@dataclass(frozen=True)
class Server:
    """A server that answered.

    Attributes:
        host: Its address, for messages.
        namespace: Of the user, where several share the server.
        pause: Seconds before asking again; doubled each time.
    """

    client: kfp.Client
    host: str
    namespace: str | None
    pause: float

    def ask(self, what: str, send: Callable[[], T]) -> T:
        """Send a request, and again after a fault that passes; `send` must bear being repeated.

        Args:
            what: It is for, for messages: "create the run".

        Raises:
            GraftError: the server cannot be reached, or refuses.
        """
        return _ask(self.host, self.pause, what, send)


@dataclass(frozen=True)
class Version:
    """A pipeline's version on the server."""

    pipeline_id: str
    version_id: str


def connect(host: str, namespace: str | None = None, *, timeout: float = 30.0, pause: float = 1.0) -> Server:
    """Reach a server and make sure that it is one.

    Who we are: GRAFT_KFP_TOKEN, else the service account's token that Kubernetes lays into a pod
    (KF_PIPELINES_SA_TOKEN_PATH), else what kfp finds itself (its cookie file, IAP's variables).

    Args:
        host: Such as https://kubeflow.example.com/pipeline.
        namespace: Needed where several users share the server.
        timeout: Seconds to wait for an answer.
        pause: Seconds before asking again; doubled each time.

    Raises:
        GraftError: the server cannot be reached, refuses us, needs a namespace, or is something else.
    """
    client = _ask(host, pause, "say hello", lambda: _client(host, namespace, timeout))
    _limit(client, timeout)
    health, _, headers = _ask(
        host, pause, "say hello", client._healthz_api.healthz_service_get_healthz_with_http_info
    )
    if "json" not in headers.get("content-type", ""):
        raise GraftError(
            f"--host: {host} answers with a page, not as Kubeflow Pipelines does",
            f"give the API's address, often with /pipeline at its end; if it is a log-in page, set {TOKEN}",
        )
    namespace = namespace or client.get_user_namespace() or None
    if health.multi_user and not namespace:
        raise GraftError(f"--namespace is missing: {host} is shared by several users", "give your namespace")
    return Server(client, host, namespace, pause)


def version_name(package: Path) -> str:
    """The name of a compiled pipeline's version: what is the same has the same name.

    Comments do not count: kfp writes the defaults there too, each time in another order.
    """
    lines = [line for line in package.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return f"sha256-{digest[:32]}"


def upload(server: Server, package: Path, name: str = PIPELINE) -> Version:
    """Make sure that the server has a compiled pipeline as a version.

    Args:
        package: The compiled pipeline, as YAML.
        name: The pipeline's.

    Raises:
        GraftError: as `Server.ask`.
    """
    pipeline = server.ask(
        f"find the pipeline {name}", lambda: _pipeline_id(server, name) or _new_pipeline(server, name)
    )
    version = version_name(package)

    def find() -> str | None:
        found = server.client.list_pipeline_versions(pipeline, filter=by_name(version)).pipeline_versions
        return str(found[0].pipeline_version_id) if found else None

    def send() -> str:
        with quiet():
            new = server.client.upload_pipeline_version(str(package), version, pipeline_id=pipeline)
        return str(new.pipeline_version_id)

    return Version(pipeline, server.ask(f"upload the version {version}", lambda: find() or send()))


def experiment_id(server: Server, name: str) -> str:
    """The experiment of this name, made where there is none.

    Raises:
        GraftError: as `Server.ask`.
    """

    def send() -> str:
        with quiet():  # kfp looks for it first
            return str(server.client.create_experiment(name, namespace=server.namespace).experiment_id)

    return server.ask(f"find the experiment {name}", send)


def by_name(name: str) -> str:
    """A filter for what is shown under this name."""
    return json.dumps({"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]})


def quiet() -> contextlib.AbstractContextManager[Any]:
    """Inside, kfp does not print an address for each thing it makes."""
    return contextlib.redirect_stdout(io.StringIO())


class _Client(kfp.Client):
    def __init__(self, seconds: float, **options: Any) -> None:
        self._seconds = seconds
        super().__init__(**options)

    def get_kfp_healthz(self, sleep_duration: int = 5) -> kfp_server_api.V2beta1GetHealthzResponse:
        """Once, and not for ever: kfp asks five times as it is made, and without a time-out."""
        limit = (self._seconds, self._seconds)
        return self._healthz_api.healthz_service_get_healthz(_request_timeout=limit)


def _client(host: str, namespace: str | None, timeout: float) -> kfp.Client:
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # it tells of each attempt
    token = os.environ.get(TOKEN)
    place = os.environ.get(kfp_client.KF_PIPELINES_SA_TOKEN_ENV, kfp_client.KF_PIPELINES_SA_TOKEN_PATH)
    mounted = ServiceAccountTokenVolumeCredentials(place) if not token and Path(place).is_file() else None
    options = {"namespace": namespace} if namespace else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return _Client(timeout, host=host, existing_token=token, credentials=mounted, **options)


def _limit(client: kfp.Client, timeout: float) -> None:
    """Give every request a time-out, and leave repeating to us: kfp has no setting for either."""
    pool = client._run_api.api_client.rest_client.pool_manager
    send = pool.request
    pool.request = lambda *given, **more: send(*given, **{**more, "timeout": timeout, "retries": False})


def _pipeline_id(server: Server, name: str) -> str | None:
    found = server.client.list_pipelines(filter=by_name(name), namespace=server.namespace).pipelines
    return str(found[0].pipeline_id) if found else None


def _new_pipeline(server: Server, name: str) -> str:
    """Without a version: kfp's upload would add one that is not named by its content."""
    new = kfp_server_api.V2beta1Pipeline(display_name=name, name=name, namespace=server.namespace)
    return str(server.client._pipelines_api.pipeline_service_create_pipeline(new).pipeline_id)


def _ask(host: str, pause: float, what: str, send: Callable[[], T]) -> T:
    for attempt in range(ATTEMPTS):
        try:
            return send()
        except (ApiException, HTTPError) as error:
            passing = not isinstance(error, ApiException) or error.status in PASSING
            if not passing or attempt == ATTEMPTS - 1:
                raise _refused(host, what, error) from error
        time.sleep(pause * 2**attempt)
    raise AssertionError("unreachable")


def _refused(host: str, what: str, error: ApiException | HTTPError) -> GraftError:
    if not isinstance(error, ApiException):
        reason = str(getattr(error, "reason", None) or error).partition(": ")[2] or str(error)
        return GraftError(
            f"could not {what}: Kubeflow Pipelines at {host} cannot be reached: {reason}",
            "check --host and the network, such as kubectl port-forward, and run it again",
        )
    status, said = int(error.status or 0), _message(error)
    if status == 401 or 300 <= status < 400:
        fix = f"set {TOKEN} to a valid token, or run it where a service account's token is mounted"
    elif status == 403:
        fix = "check --namespace, and that your account may use Kubeflow Pipelines there"
    elif status == 404:
        fix = "check that --host is the API of Kubeflow Pipelines 2, often with /pipeline at its end"
    elif status == 409:
        fix = "somebody else is changing the same thing; run it again"
    elif status >= 500:
        fix = f"it was tried {ATTEMPTS} times; see the log of the deployment ml-pipeline, and run it again"
    else:
        fix = "correct what it names"
    return GraftError(f"could not {what}: {host} answered {status}: {said}", fix)


def _message(error: ApiException) -> str:
    """What the server says of its refusal, in one line."""
    try:
        body = json.loads(error.body or "")
        said = body.get("error_message") or body.get("message") or body.get("error")
    except (ValueError, AttributeError):
        said = None
    return " ".join(str(said or error.reason or "nothing").split())[:500]
