"""A pod for a step's work outside Kubeflow Pipelines, from the same section `cluster`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graft.params import StepResources
from graft.params.cluster import Source, Volume
from pipelines.cluster import GPU

Json = dict[str, Any]


def pod_spec(
    name: str, image: str, command: Sequence[str], variables: Mapping[str, str], resources: StepResources
) -> Json:
    """The pod specification with one container, which runs once, without any rights.

    Args:
        name: The container's.
        variables: Environment, beside what secrets and config maps give.
        resources: Of the step.
    """
    mounts, volumes = _storage(resources)
    container = {
        "name": name,
        "image": image,
        "command": list(command),
        "env": [
            *({"name": key, "value": value} for key, value in variables.items()),
            *_references(resources),
        ],
        "resources": _amounts(resources),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": mounts,
    }
    spec: Json = {"restartPolicy": "Never", "containers": [container], "volumes": volumes}
    if resources.node_selector:
        spec["nodeSelector"] = dict(resources.node_selector)
    if resources.tolerations:
        spec["tolerations"] = [
            _without_none({**one.model_dump(exclude={"seconds"}), "tolerationSeconds": one.seconds})
            for one in resources.tolerations
        ]
    return spec


def _amounts(resources: StepResources) -> Json:
    requests = _without_none({"cpu": resources.cpu.request, "memory": resources.memory.request})
    limits = _without_none({"cpu": resources.cpu.limit, "memory": resources.memory.limit})
    if resources.accelerator.count:
        limits[resources.accelerator.type or GPU] = str(resources.accelerator.count)
    return {"requests": requests, "limits": limits}


def _references(resources: StepResources) -> list[Json]:
    """Keys of secrets and config maps as environment variables."""
    kinds = (("secretKeyRef", resources.secrets), ("configMapKeyRef", resources.config_maps))
    return [
        {"name": variable, "valueFrom": {kind: {"name": source.name, "key": key}}}
        for kind, sources in kinds
        for source in sources
        for key, variable in source.keys.items()
    ]


def _storage(resources: StepResources) -> tuple[list[Json], list[Json]]:
    """Mounts and volumes; /tmp too, for the root file system is read-only."""
    wanted: list[tuple[Json, Json]] = [({"mountPath": "/tmp"}, {"emptyDir": {}})]
    if resources.shm is not None:
        wanted.append(
            ({"mountPath": "/dev/shm"}, {"emptyDir": {"medium": "Memory", "sizeLimit": resources.shm}})
        )
    for kind, key, sources in (
        ("secret", "secretName", resources.secrets),
        ("configMap", "name", resources.config_maps),
    ):
        wanted += [_mounted(source, kind, key) for source in sources if source.mount_path]
    wanted += [_volume(volume) for volume in resources.volumes]
    names = [f"volume-{number}" for number in range(len(wanted))]
    mounts = [{"name": name, **mount} for name, (mount, _) in zip(names, wanted, strict=True)]
    return mounts, [{"name": name, **volume} for name, (_, volume) in zip(names, wanted, strict=True)]


def _mounted(source: Source, kind: str, key: str) -> tuple[Json, Json]:
    return {"mountPath": source.mount_path, "readOnly": True}, {kind: {key: source.name}}


def _volume(volume: Volume) -> tuple[Json, Json]:
    mount = {"mountPath": volume.mount_path, **({"subPath": volume.sub_path} if volume.sub_path else {})}
    if volume.pvc:
        return mount, {"persistentVolumeClaim": {"claimName": volume.pvc}}
    claim = {
        "accessModes": [volume.access_mode],
        "resources": {"requests": {"storage": volume.size}},
        "storageClassName": volume.storage_class,
    }
    return mount, {"ephemeral": {"volumeClaimTemplate": {"spec": _without_none(claim)}}}


def _without_none(values: Json) -> Json:
    return {key: value for key, value in values.items() if value is not None}
