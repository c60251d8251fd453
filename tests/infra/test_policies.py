"""The policies hold of what is rendered, and notice what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.infra import policies
from tests.infra.manifests import FOLDERS, Manifest, containers, find, pods, render, title


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_policy_holds(folder: str) -> None:
    assert policies.every_policy(render(folder)) == []


Mutation = Callable[[Manifest, Manifest], Any]
# Of a pod and its first container.
SPOILED_PODS: dict[str, Mutation] = {
    "runAsNonRoot": lambda pod, _: pod["securityContext"].update(runAsNonRoot=False),
    "runAsUser": lambda pod, _: pod["securityContext"].update(runAsUser=0),
    "seccompProfile": lambda pod, _: pod["securityContext"].pop("seccompProfile"),
    "automountServiceAccountToken": lambda pod, _: pod.pop("automountServiceAccountToken"),
    "no service account": lambda pod, _: pod.update(serviceAccountName="default"),
    "hostNetwork": lambda pod, _: pod.update(hostNetwork=True),
    "hostPath": lambda pod, _: pod["volumes"].append({"name": "host", "hostPath": {"path": "/"}}),
    "readOnlyRootFilesystem": lambda _, one: one["securityContext"].pop("readOnlyRootFilesystem"),
    "allowPrivilegeEscalation": lambda _, one: one["securityContext"].update(allowPrivilegeEscalation=True),
    "capabilities are not dropped": lambda _, one: one["securityContext"].update(capabilities={}),
    "capabilities added": lambda _, one: one["securityContext"]["capabilities"].update(add=["SYS_ADMIN"]),
    "runs as root": lambda _, one: one["securityContext"].update(runAsUser=0),
    "no limits of memory": lambda _, one: one["resources"]["limits"].pop("memory"),
    "no requests of cpu": lambda _, one: one["resources"]["requests"].pop("cpu"),
    "image postgres": lambda _, one: one.update(image="postgres"),
    "image registry:5000/mlflow": lambda _, one: one.update(image="registry:5000/mlflow"),
    "image mlflow:latest-full": lambda _, one: one.update(image="mlflow:latest-full"),
    "has its value here": lambda _, one: one.setdefault("env", []).append(
        {"name": "DB_PASSWORD", "value": "x"}
    ),
    "a password in": lambda _, one: one.setdefault("args", []).append("postgresql://u:pw@postgres/mlflow"),
    "there is no Secret/nowhere": lambda _, one: one.setdefault("envFrom", []).append(
        {"secretRef": {"name": "nowhere"}}
    ),
    "there is no ConfigMap/nowhere": lambda pod, _: pod["volumes"].append(
        {"name": "none", "configMap": {"name": "nowhere"}}
    ),
    "there is no ServiceAccount/nobody": lambda pod, _: pod.update(serviceAccountName="nobody"),
    "there is no PersistentVolumeClaim/gone": lambda pod, _: pod["volumes"].append(
        {"name": "gone", "persistentVolumeClaim": {"claimName": "gone"}}
    ),
}  # fmt: skip
WITH_PODS = ("CronJob/backup", "CronJob/restore", "CronJob/roll", "CronJob/users", "Deployment/mlflow")


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(SPOILED_PODS)), st.sampled_from(WITH_PODS))
def test_a_spoiled_pod_is_noticed(what: str, where: str) -> None:
    manifests = render("base")
    (pod,) = [pod for name, _, pod in pods(manifests) if name == where]
    SPOILED_PODS[what](pod, containers(pod)[0])
    found = policies.every_policy(manifests)
    assert [text for text in found if what in text and text.startswith(where)], found


def _drop_policy(manifests: list[Manifest], name: str) -> None:
    manifests.remove(find(manifests, "NetworkPolicy", name))


def _plain_secret(manifests: list[Manifest]) -> None:
    body = {"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "s"}, "stringData": {"password": "x"}}
    manifests.append(body)


def _rename_pods(manifests: list[Manifest]) -> None:
    template = find(manifests, "Deployment", "mlflow")["spec"]["template"]
    template["metadata"]["labels"] = {"app": "renamed"}


def _writable_runtime(manifests: list[Manifest]) -> None:
    (container,) = find(manifests, "ServingRuntime", "graft")["spec"]["containers"]
    container["securityContext"]["readOnlyRootFilesystem"] = False


def _any_verb(manifests: list[Manifest]) -> None:
    find(manifests, "Role", "graft-train")["rules"][0]["verbs"] = ["*"]


def _reads_secrets(manifests: list[Manifest]) -> None:
    rule = {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}
    find(manifests, "Role", "roll")["rules"].append(rule)


def _unlisted_secret(manifests: list[Manifest]) -> None:
    find(manifests, "ServiceAccount", "serving")["secrets"] = [{"name": "unlisted"}]


def _secret_in_config_map(manifests: list[Manifest]) -> None:
    (storage,) = [each for each in manifests if title(each).startswith("ConfigMap/storage")]
    storage["data"]["AWS_SECRET_ACCESS_KEY"] = "x"


SPOILED: dict[str, Callable[[list[Manifest]], None]] = {
    "a secret with its data": _plain_secret,
    "AWS_SECRET_ACCESS_KEY": _secret_in_config_map,
    "nothing denies by default": lambda all_: _drop_policy(all_, "default-deny"),
    "Deployment/mlflow: no NetworkPolicy": _rename_pods,
    "InferenceService/champion: no NetworkPolicy": lambda all_: _drop_policy(all_, "serving"),
    "InferenceService/champion/kserve-container: readOnly": _writable_runtime,
    "Role/graft-train": _any_verb,
    "Role/roll": _reads_secrets,
    "ServiceAccount/serving: there is no Secret/unlisted": _unlisted_secret,
}


@pytest.mark.parametrize("what", sorted(SPOILED))
def test_a_spoiled_manifest_is_noticed(what: str) -> None:
    manifests = render("overlays/production")
    SPOILED[what](manifests)
    found = policies.every_policy(manifests)
    assert [text for text in found if what in text], found


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("postgres:17.7-bookworm", True),
        ("registry:5000/a/b:1", True),
        ("a@sha256:" + "0" * 64, True),
        ("a@sha256:12", False),
        ("registry:5000/a/b", False),
        ("postgres", False),
        ("a:latest", False),
    ],
)
def test_pinned(image: str, expected: bool) -> None:
    assert policies.pinned(image) is expected
