"""Talking to Kubernetes from inside a pod.

Through the package `kubernetes`, not through Kubeflow's SDK (0.5.0). That one gives a job one number for
request and limit, has no word for processes on a node (Trainer's own choice on a CPU is one for each core) or
for an owner, needs to read the runtimes of the whole cluster, follows one pod's log, and takes the first
failed request for the end of the job.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from urllib3.exceptions import HTTPError

from graft.errors import GraftError

if TYPE_CHECKING:
    from kubernetes.client import ApiException, CoreV1Api, CustomObjectsApi

T = TypeVar("T")
Json = dict[str, Any]

NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
TRAINJOBS = {"group": "trainer.kubeflow.org", "version": "v1alpha1", "plural": "trainjobs"}
ATTEMPTS = 12  # a control plane that is being replaced is away for minutes
PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds; doubled each time
TIMEOUT = (10, 60)  # seconds, to connect and to answer
PASSING = {408, 425, 429, 500, 502, 503, 504}


@dataclass(frozen=True)
class Cluster:
    """The part of Kubernetes that a step may use.

    Attributes:
        namespace: Of this pod, and of what it starts: claims and accounts are not shared between namespaces.
    """

    namespace: str
    jobs: CustomObjectsApi
    core: CoreV1Api

    def own_pod(self) -> Json:
        """The pod that this process runs in, as Kubernetes has it.

        Raises:
            GraftError: there is none of that name.
        """
        name = os.environ.get("KFP_POD_NAME") or os.environ.get("HOSTNAME", "")
        found = ask(
            f"read the pod {name}",
            lambda: self.core.read_namespaced_pod(
                name, self.namespace, _preload_content=False, _request_timeout=TIMEOUT
            ),
            absent=None,
        )
        if found is None:
            raise GraftError(
                f"launch: trainjob, but the namespace {self.namespace} has no pod {name!r}, which this step "
                "should be running in",
                "use it on a cluster, where KFP_POD_NAME or HOSTNAME names the pod, or `kind: torchrun`",
            )
        return dict(json.loads(found.data))

    def create(self, job: Json) -> bool:
        """Create a TrainJob; False where one of its name exists already."""
        made = ask(
            f"create the TrainJob {job['metadata']['name']}",
            lambda: self.jobs.create_namespaced_custom_object(
                **TRAINJOBS, namespace=self.namespace, body=job, _request_timeout=TIMEOUT
            ),
            conflict=None,
        )
        return made is not None

    def get(self, name: str) -> Json | None:
        """A TrainJob, or None where there is none."""
        found: Json | None = ask(
            f"read the TrainJob {name}",
            lambda: self.jobs.get_namespaced_custom_object(
                **TRAINJOBS, namespace=self.namespace, name=name, _request_timeout=TIMEOUT
            ),
            absent=None,
        )
        return found

    def delete(self, name: str) -> None:
        """Delete a TrainJob with its pods; nothing happens where there is none."""
        ask(
            f"delete the TrainJob {name}",
            lambda: self.jobs.delete_namespaced_custom_object(
                **TRAINJOBS,
                namespace=self.namespace,
                name=name,
                propagation_policy="Background",
                _request_timeout=TIMEOUT,
            ),
            absent=None,
        )

    def pods(self, name: str) -> list[Json]:
        """A TrainJob's pods, the oldest first."""
        found = ask(
            f"list the pods of the TrainJob {name}",
            lambda: self.core.list_namespaced_pod(
                self.namespace,
                label_selector=f"jobset.sigs.k8s.io/jobset-name={name}",
                _preload_content=False,
                _request_timeout=TIMEOUT,
            ),
        )
        assert found is not None
        pods: list[Json] = json.loads(found.data)["items"]
        return sorted(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp")))

    def log(self, pod: str, container: str, seconds: int | None) -> list[str]:
        """Lines of a pod's log, each behind its time, of the last seconds or all; none before it runs."""
        since = {} if seconds is None else {"since_seconds": seconds}
        found = ask(
            f"read the log of the pod {pod}",
            lambda: self.core.read_namespaced_pod_log(
                pod,
                self.namespace,
                container=container,
                timestamps=True,
                _preload_content=False,
                _request_timeout=TIMEOUT,
                **since,
            ),
            absent=None,
            unready=None,
        )
        return [] if found is None else found.data.decode(errors="replace").splitlines()


def connect() -> Cluster:
    """Reach Kubernetes as this pod's service account, or as kubectl does where KUBECONFIG is set.

    Raises:
        GraftError: neither is there.
    """
    from kubernetes import client, config

    settings = client.Configuration()
    settings.retries = False  # `ask` repeats
    try:
        if file := os.environ.get("KUBECONFIG"):
            config.load_kube_config(config_file=file, client_configuration=settings)
            context = config.list_kube_config_contexts(config_file=file)[1]["context"]
            namespace = context.get("namespace", "default")
        else:
            config.load_incluster_config(client_configuration=settings)
            namespace = NAMESPACE.read_text(encoding="utf-8").strip()
    except (config.ConfigException, OSError) as error:
        raise GraftError(
            f"launch: trainjob needs Kubernetes, and this is no pod with a service account: {error}",
            "use it on a cluster, with automountServiceAccountToken; here, use `kind: torchrun`",
        ) from error
    api = client.ApiClient(settings)
    return Cluster(namespace, client.CustomObjectsApi(api), client.CoreV1Api(api))


def ask(what: str, send: Callable[[], T], **instead: None) -> T | None:
    """Send a request, and again while faults last that pass; `send` must bear being repeated.

    Args:
        what: It is for, for messages.
        instead: Which refusals are an answer, None: `absent` (404), `conflict` (409), `unready` (400).

    Raises:
        GraftError: Kubernetes cannot be reached for minutes, or refuses.
    """
    from kubernetes.client import ApiException

    answers = {404: "absent", 409: "conflict", 400: "unready"}
    for attempt in range(ATTEMPTS):
        try:
            return send()
        except (ApiException, HTTPError) as error:
            status = int(error.status or 0) if isinstance(error, ApiException) else 0
            if answers.get(status) in instead:
                return None
            if (status and status not in PASSING) or attempt == ATTEMPTS - 1:
                raise _refused(what, status, error) from error
        time.sleep(min(LONGEST_PAUSE, PAUSE * 2**attempt))
    raise AssertionError("unreachable")


def _refused(what: str, status: int, error: ApiException | HTTPError) -> GraftError:
    if not status:
        return GraftError(
            f"could not {what}: Kubernetes cannot be reached: {error}",
            "check that network policies let this pod talk to the API server, and run it again",
        )
    try:
        said = json.loads(getattr(error, "body", None) or "{}").get("message")
    except ValueError:
        said = None
    problem = f"could not {what}: Kubernetes answered {status}: {said or getattr(error, 'reason', '')}"
    if status in (401, 403):
        return GraftError(
            problem,
            "give the step's service account, in this namespace, the verbs create, get, list and delete on "
            "trainjobs.trainer.kubeflow.org, get and list on pods, and get on pods/log",
        )
    if status == 404:
        return GraftError(problem, "install Kubeflow Trainer v2, or use `kind: torchrun`")
    return GraftError(problem, "correct what it names, and run it again")
