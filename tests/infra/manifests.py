"""Manifests as kustomize renders them, and where pods are in them."""

from __future__ import annotations

import copy
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
INFRA = ROOT / "infra"
FOLDERS = ("base", "overlays/local", "overlays/production")
Manifest = dict[str, Any]


def render(folder: str) -> list[Manifest]:
    """The objects of a folder below infra/kubernetes; a copy that a test may change."""
    return copy.deepcopy(_rendered(folder))


@cache
def _rendered(folder: str) -> list[Manifest]:
    if kubectl := shutil.which("kubectl"):
        command = [kubectl, "kustomize"]
    elif kustomize := shutil.which("kustomize"):
        command = [kustomize, "build"]
    else:
        pytest.skip("needs kubectl or kustomize to render infra/kubernetes; neither is installed")
    place = str(INFRA / "kubernetes" / folder)
    done = subprocess.run([*command, place], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return list(yaml.load_all(done.stdout, yaml.CSafeLoader))


def title(manifest: Manifest) -> str:
    return f"{manifest['kind']}/{manifest['metadata']['name']}"


def find(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    (found,) = [each for each in manifests if title(each) == f"{kind}/{name}"]
    return found


def pod_of(manifest: Manifest) -> tuple[Manifest, Manifest] | None:
    """(labels, pod spec) of the pods that an object makes, the spec itself, not a copy."""
    kind, spec = manifest["kind"], manifest.get("spec", {})
    if kind == "CronJob":
        spec = spec["jobTemplate"]["spec"]
    if "template" in spec and "spec" in spec["template"]:
        return spec["template"]["metadata"]["labels"], spec["template"]["spec"]
    return None


def pods(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest, Manifest]]:
    """(title, labels, pod spec) of everything that makes pods, KServe's included.

    KServe joins a ServingRuntime's containers and an InferenceService's predictor, the latter winning.
    """
    runtimes = {each["metadata"]["name"]: each for each in manifests if each["kind"] == "ServingRuntime"}
    for each in manifests:
        if each["kind"] == "InferenceService":
            predictor = each["spec"]["predictor"]
            runtime = runtimes[predictor["model"]["runtime"]]["spec"]
            pod = {key: value for key, value in {**runtime, **predictor}.items() if key in POD_FIELDS}
            yield title(each), {"serving.kserve.io/inferenceservice": each["metadata"]["name"]}, pod
        elif found := pod_of(each):
            yield title(each), *found


POD_FIELDS = (
    "automountServiceAccountToken", "containers", "initContainers", "securityContext", "serviceAccountName",
    "volumes", "topologySpreadConstraints", "nodeSelector", "tolerations", "affinity",
)  # fmt: skip


def containers(pod: Manifest) -> list[Manifest]:
    return [*pod.get("initContainers", []), *pod["containers"]]
