"""CronJobs of Kubernetes, for the schedules that Kubeflow's recurring runs cannot keep.

Each calls `graft submit --wait`, so that a job lasts as long as its run and `max_concurrency: 1` holds.
"""

from __future__ import annotations

from typing import Any

import yaml

from graft.params import Params, read_params
from pipelines.cluster import require_digest
from pipelines.cron import five_fields
from pipelines.schedules import CronJobs, Schedule, Schedules

TOKEN_FOLDER = "/var/run/secrets/kubeflow/pipelines"  # where kfp looks for it
_RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def render(file: Schedules, host: str, namespace: str) -> str:
    """The manifests, as YAML for `kubectl apply -f -`; nothing where Kubeflow can keep every schedule.

    Args:
        file: The checked schedules.yaml.
        host: Of Kubeflow Pipelines, as the pods reach it.
        namespace: Of the jobs and of the runs.

    Raises:
        GraftError: a parameter file is missing or wrong, or the image has no digest.
    """
    documents: list[dict[str, Any]] = []
    for one in file.cron_jobbed():
        assert file.cron_jobs is not None  # read_schedules saw to it
        params = read_params(one.params, one.overrides)
        image = params.cluster.image or file.cron_jobs.image
        require_digest(image)
        about = _about(file, one, namespace)
        command = ["graft", "submit", "--host", host, "--namespace", namespace, "--image", image]
        pod = _pod(file.cron_jobs, one, about["name"], [*command, *_arguments(one)])
        documents += [_config_map(params, about), _cron_job(file, one, about, pod)]
    return yaml.safe_dump_all(documents, sort_keys=False) if documents else ""


def _about(file: Schedules, one: Schedule, namespace: str) -> dict[str, Any]:
    labels = {"app.kubernetes.io/managed-by": "graft", "app.kubernetes.io/part-of": file.project}
    return {"name": f"{file.project}-{one.name}", "namespace": namespace, "labels": labels}


def _config_map(params: Params, about: dict[str, Any]) -> dict[str, Any]:
    """The parameters as they are now, since the pods have none of the files."""
    text = yaml.safe_dump(params.model_dump(mode="json", exclude_none=True), sort_keys=False)
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": about, "data": {"params.yaml": text}}


def _cron_job(file: Schedules, one: Schedule, about: dict[str, Any], pod: dict[str, Any]) -> dict[str, Any]:
    spec = {
        "schedule": five_fields(str(one.cron)),
        "timeZone": one.time_zone or file.server_time_zone,
        "concurrencyPolicy": "Forbid" if one.max_concurrency == 1 else "Allow",
        "suspend": not one.enabled,
        "startingDeadlineSeconds": 3600,  # without it, a hundred missed times stop a CronJob for good
        "jobTemplate": {
            "spec": {
                "backoffLimit": 0,  # graft asks again by itself, and another try would be another run
                "template": {"metadata": {"labels": dict(about["labels"])}, "spec": pod},
            }
        },
    }
    return {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": about, "spec": spec}


def _pod(jobs: CronJobs, one: Schedule, name: str, command: list[str]) -> dict[str, Any]:
    token = {"path": "token", "audience": "pipelines.kubeflow.org", "expirationSeconds": 7200}
    volumes: dict[str, dict[str, Any]] = {
        "/etc/graft": {"configMap": {"name": name}},
        "/tmp": {"emptyDir": {}},
        TOKEN_FOLDER: {"projected": {"sources": [{"serviceAccountToken": token}]}},
    }
    if jobs.claim and one.only_when == "drifted":
        volumes["/monitor"] = {"persistentVolumeClaim": {"claimName": jobs.claim, "readOnly": True}}
    names = {path: f"volume-{number}" for number, path in enumerate(volumes)}
    container = {
        "name": "submit",
        "image": jobs.image,
        "command": command,
        "env": [{"name": "HOME", "value": "/tmp"}],
        "envFrom": [{"secretRef": {"name": secret}} for secret in jobs.environment],
        "resources": {
            "requests": {"cpu": "100m", "memory": "512Mi"},
            "limits": {"cpu": "1", "memory": "1Gi"},
        },
        "securityContext": _RESTRICTED,
        "volumeMounts": [
            {"name": names[path], "mountPath": path} | ({} if path == "/tmp" else {"readOnly": True})
            for path in volumes
        ],
        "workingDir": "/tmp",
    }
    return {
        "restartPolicy": "Never",
        "serviceAccountName": jobs.service_account,
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": [{"name": names[path], **source} for path, source in volumes.items()],
    }


def _arguments(one: Schedule) -> list[str]:
    arguments = ["--experiment", one.experiment, "--params", "/etc/graft/params.yaml"]
    arguments += ["--data", one.data, "--wait"]
    if one.only_when:
        arguments += ["--only-when", one.only_when.replace("_", "-")]
    if one.only_when == "drifted":
        arguments += ["--monitor", one.monitor]
    return arguments
