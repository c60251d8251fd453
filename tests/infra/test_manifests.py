"""infra/kubernetes: rendered, valid, within the policies; and policies that notice what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from pipelines.rolling import Target, patch
from tests.infra import policies
from tests.infra.manifests import FOLDERS, Manifest, containers, find, pods, render, title

KUBERNETES = "1.34"
CUSTOM = ("serving.kserve.io", "trainer.kubeflow.org")


@pytest.fixture(params=FOLDERS)
def manifests(request: pytest.FixtureRequest) -> list[Manifest]:
    return render(request.param)


def test_core_objects_follow_kubernetes_schemas(manifests: list[Manifest]) -> None:
    for each in manifests:
        if not each["apiVersion"].startswith(CUSTOM):
            kubernetes_validate.validate(each, KUBERNETES, strict=True)


def test_a_planted_typo_is_noticed() -> None:
    manifest = find(render("base"), "Deployment", "mlflow")
    manifest["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


def test_pods_of_kserve_follow_kubernetes_schemas(manifests: list[Manifest]) -> None:
    """There is no schema of ServingRuntime at hand; what of it becomes a pod has one."""
    (pod,) = [pod for name, _, pod in pods(manifests) if name == "InferenceService/champion"]
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "champion"}, "spec": pod}
    kubernetes_validate.validate(body, KUBERNETES, strict=True)


def strict(schema: Any) -> Any:
    """A CRD's schema that refuses unknown fields; Kubernetes would drop them in silence."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    done = {key: strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        free = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
        return done if free else {**done, "additionalProperties": False}
    return done


@pytest.fixture(scope="module")
def kserve(shared: Path) -> jsonschema.Draft7Validator:
    """Of InferenceServices. The schema itself is not checked: it has 2 MB, and Kubernetes took it."""
    crd = yaml.load((shared / "data/crds/inferenceservices.yaml").read_text(), yaml.CSafeLoader)
    schema = strict(crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    return jsonschema.Draft7Validator(schema)


@pytest.mark.photos
def test_the_inference_service_follows_kserves_schema(
    manifests: list[Manifest], kserve: jsonschema.Draft7Validator
) -> None:
    service = find(manifests, "InferenceService", "champion")
    kserve.validate(service)
    service["metadata"]["resourceVersion"] = "1"
    change = patch(service, Target("digits", "7", "s3://bucket/models/m-1"))
    assert change is not None
    service["spec"]["predictor"]["model"] |= change["spec"]["predictor"]["model"]
    kserve.validate(service)


@pytest.mark.photos
def test_kserves_schema_notices_a_typo(kserve: jsonschema.Draft7Validator) -> None:
    service = find(render("base"), "InferenceService", "champion")
    service["spec"]["predictor"]["model"]["storageURI"] = "s3://bucket/models/m-1"
    with pytest.raises(jsonschema.ValidationError, match="storageURI"):
        kserve.validate(service)


def test_every_secret_and_key_stands_in_the_readme(manifests: list[Manifest]) -> None:
    table = policies.table_of_secrets()
    asked = {
        (source["secretKeyRef"]["name"], source["secretKeyRef"]["key"])
        for _, _, pod in pods(manifests)
        for container in containers(pod)
        for variable in container.get("env", [])
        if "secretKeyRef" in (source := variable.get("valueFrom", {}))
    }
    assert asked
    assert {(name, key) for name, key in asked if key not in table.get(name, set())} == set()


def test_config_maps_hold_the_keys_that_pods_ask_for(manifests: list[Manifest]) -> None:
    maps = {each["metadata"]["name"]: each["data"] for each in manifests if each["kind"] == "ConfigMap"}
    for name, _, pod in pods(manifests):
        for variable in (v for container in containers(pod) for v in container.get("env", [])):
            if reference := variable.get("valueFrom", {}).get("configMapKeyRef"):
                assert reference["key"] in maps[reference["name"]], name


def test_names_are_unique_and_in_their_namespace(manifests: list[Manifest]) -> None:
    titles = [title(each) for each in manifests]
    assert len(titles) == len(set(titles))
    for each in manifests:
        of_steps = title(each).partition("/")[2] in ("graft-train", "graft-training")
        expected = None if each["kind"] == "Namespace" else "kubeflow" if of_steps else "graft"
        assert each["metadata"].get("namespace") == expected, title(each)


def test_a_quota_in_kubeflows_namespace_leaves_its_own_pods_alone() -> None:
    """One of CPU or memory would refuse every pod that states none."""
    quota = find(render("overlays/production"), "ResourceQuota", "graft-training")
    assert {key.partition("/")[0] for key in quota["spec"]["hard"]} == {"count", "requests.nvidia.com"}


def test_the_namespace_refuses_what_is_not_restricted(manifests: list[Manifest]) -> None:
    labels = find(manifests, "Namespace", "graft")["metadata"]["labels"]
    assert {labels[f"pod-security.kubernetes.io/{mode}"] for mode in ("enforce", "audit", "warn")} == {
        "restricted"
    }


def test_applying_again_leaves_what_roll_wrote(manifests: list[Manifest]) -> None:
    service = find(manifests, "InferenceService", "champion")
    assert "storageUri" not in service["spec"]["predictor"]["model"]
    assert not [key for key in service["metadata"]["annotations"] if key.startswith("graft/")]


def test_roll_may_touch_one_object_only(manifests: list[Manifest]) -> None:
    (rule,) = find(manifests, "Role", "roll")["rules"]
    assert (rule["resourceNames"], rule["verbs"]) == (["champion"], ["get", "patch"])


def test_only_roll_has_a_token(manifests: list[Manifest]) -> None:
    with_token = {name for name, _, pod in pods(manifests) if pod["automountServiceAccountToken"]}
    assert with_token == {"CronJob/roll"}


def test_the_overlays_differ_where_they_should() -> None:
    local, production = render("overlays/local"), render("overlays/production")
    replicas = [find(each, "Deployment", "mlflow")["spec"]["replicas"] for each in (local, production)]
    assert replicas == [1, 3]
    claims = [
        find(each, "StatefulSet", "postgres")["spec"]["volumeClaimTemplates"][0]["spec"]
        for each in (local, production)
    ]
    assert [claim["resources"]["requests"]["storage"] for claim in claims] == ["1Gi", "100Gi"]
    assert find(local, "Deployment", "object-store")
    assert not [each for each in production if each["metadata"]["name"] == "object-store"]
    storage = {
        each["metadata"]["name"].rpartition("-")[0]: each
        for each in production
        if each["kind"] == "ConfigMap"
    }
    assert "AWS_ENDPOINT_URL_S3" not in storage["storage"]["data"]
    pod = find(production, "Deployment", "mlflow")["spec"]["template"]["spec"]
    assert [each["topologyKey"] for each in pod["topologySpreadConstraints"]] == [
        "topology.kubernetes.io/zone",
        "kubernetes.io/hostname",
    ]


def test_mlflow_has_one_worker_on_a_small_node() -> None:
    """The patch counts into a list of arguments; it must still meet what it means."""
    (container,) = find(render("overlays/local"), "Deployment", "mlflow")["spec"]["template"]["spec"][
        "containers"
    ]
    assert container["args"][-2:] == ["--workers", "1"]


def test_the_table_of_secrets_says_nothing_that_nobody_reads() -> None:
    text = json.dumps([render(folder) for folder in FOLDERS])
    assert {name for name in policies.table_of_secrets() if f'"{name}"' not in text} == set()
