"""A TrainJob whose pods are like the step's own: same image, resources, storage, place and rights."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from graft.errors import GraftError
from graft.params import Launch

Json = dict[str, Any]

RUNTIME = "torch-distributed"  # comes with Trainer; its pods have one container of this name:
NODE = "node"
MANAGER = "graft/launch"  # of the patches, which Trainer wants signed
# Of Argo, Kubeflow Pipelines, Trainer and Kubernetes; the new pods get their own.
NOT_PASSED = re.compile(r"^(ARGO_|KFP_|PET_|KUBERNETES_|GRAFT_RUN$|HOSTNAME$)")
NOT_MOUNTED = re.compile(r"^(kube-api-access-|var-run-argo|tmp-dir-argo|input-artifacts|argo-|kfp-)")
# What one pod sees and no other.
PRIVATE = {"emptyDir", "ephemeral", "configMap", "secret", "projected", "downwardAPI"}
PLACE = (
    "nodeSelector",
    "affinity",
    "tolerations",
    "imagePullSecrets",
    "securityContext",
    "serviceAccountName",
)


def job_name(step: str, work: Path) -> str:
    """Of a TrainJob: the same for the same work, whose folder is named after all that its result depends on.

    At most 40 characters, so that Trainer's pods can be named after it.
    """
    digest = hashlib.sha256(str(work).encode()).hexdigest()[:16]
    return f"graft-{step.replace('_', '-')[:16]}-{digest}"


def trainjob(name: str, pod: Json, command: Sequence[str], launch: Launch) -> Json:
    """The manifest.

    Args:
        name: Of the TrainJob.
        pod: Of the step, as Kubernetes has it.
        command: Of each pod; Trainer's torch plugin tells it through PET_... who and how many they are.
        launch: How many nodes, and how many processes on each.
    """
    own = own_container(pod)
    resources = own.get("resources", {})
    patch = {"name": NODE, "template": {"spec": {"template": {"spec": _pod_patch(pod, own)}}}}
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {
            "name": name,
            "namespace": pod["metadata"]["namespace"],
            "labels": {"app.kubernetes.io/name": "graft", "app.kubernetes.io/component": "training"},
            "ownerReferences": _owners(pod),
        },
        "spec": {
            "runtimeRef": {"name": RUNTIME},
            "trainer": {
                "image": own["image"],
                "command": list(command),
                "env": [one for one in own.get("env", []) if not NOT_PASSED.match(one["name"])],
                "numNodes": launch.nodes,
                "numProcPerNode": launch.processes or gpus(resources) or 1,
                "resourcesPerNode": {
                    key: resources[key] for key in ("requests", "limits") if key in resources
                },
            },
            "runtimePatches": [
                {
                    "manager": MANAGER,
                    "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": [patch]}}},
                }
            ],
        },
    }


def own_container(pod: Json) -> Json:
    """The container that runs the step; Argo calls it main."""
    containers: list[Json] = pod["spec"]["containers"]
    return next((one for one in containers if one["name"] == "main"), containers[0])


def gpus(resources: Json) -> int:
    """How many a container may use."""
    limits = resources.get("limits", {})
    return sum(int(amount) for name, amount in limits.items() if name.endswith("/gpu"))


def require_shared(pod: Json, work: Path) -> None:
    """Hold the folder of inputs, checkpoints and outputs to be on storage that other pods see, too.

    Raises:
        GraftError: it is in the container or on a volume of this pod alone.
    """
    mounts = own_container(pod).get("volumeMounts", [])
    above = [one for one in mounts if _is_below(work, one["mountPath"])]
    deepest = max(above, key=lambda one: len(one["mountPath"]), default=None)
    volumes = {one["name"]: one for one in pod["spec"].get("volumes", [])}
    kinds = set(volumes.get(deepest["name"], {})) - {"name"} if deepest else set()
    if not kinds or kinds & PRIVATE:
        where = f"on a volume of kind {min(kinds)}" if kinds else "in the container"
        raise GraftError(
            f"launch: trainjob, but {work} is {where}, which the training pods do not see",
            "set GRAFT_HOME to a folder of a claim that many pods can mount (ReadWriteMany), and mount it: "
            "cluster.defaults.volumes: [{pvc: NAME, mount_path: /graft}]",
        )


def _is_below(path: Path, folder: str) -> bool:
    return os.path.commonpath([str(path), folder]) == os.path.normpath(folder)


def _owners(pod: Json) -> list[Json]:
    """Who owns the step's pod, such as Argo's workflow: the job goes with it, but survives the pod."""
    owners = pod["metadata"].get("ownerReferences", [])
    return [{**one, "controller": False, "blockOwnerDeletion": False} for one in owners]


def _pod_patch(pod: Json, own: Json) -> Json:
    spec = pod["spec"]
    mounts = [one for one in own.get("volumeMounts", []) if not NOT_MOUNTED.match(one["name"])]
    wanted = {one["name"] for one in mounts}
    container = {"name": NODE, "volumeMounts": mounts}
    if "securityContext" in own:
        container["securityContext"] = own["securityContext"]
    return {
        **{key: spec[key] for key in PLACE if spec.get(key)},
        "volumes": [one for one in spec.get("volumes", []) if one["name"] in wanted],
        "containers": [container],
    }
