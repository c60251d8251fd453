"""What must hold of every manifest. Each function gives its findings, as text; none means that it holds."""

from __future__ import annotations

import re
from typing import Any

from tests.infra.manifests import INFRA, Manifest, containers, pods, title

SECRET_NAME = re.compile(r"PASSWORD|SECRET|TOKEN|KEY|CREDENTIAL", re.IGNORECASE)


# | `name` | namespace | `key`, `key` | ...
ROW = re.compile(r"^\| `(?P<name>[\w-]+)` \| (?P<where>[\w, ]+) \| (?P<keys>`[^|]+) \|", re.MULTILINE)


def table_of_secrets() -> dict[str, set[str]]:
    """The keys of each secret, as infra/README.md lists them."""
    text = (INFRA / "README.md").read_text()
    return {row["name"]: set(re.findall(r"`([^`]+)`", row["keys"])) for row in ROW.finditer(text)}


def every_policy(manifests: list[Manifest]) -> list[str]:
    """All findings."""
    outside = {f"Secret/{name}" for name in table_of_secrets()}  # made by hand
    return [
        *unsafe_pods(manifests),
        *unsafe_containers(manifests),
        *loose_images(manifests),
        *plain_secrets(manifests),
        *dangling_references(manifests, outside),
        *unguarded_pods(manifests),
        *wide_roles(manifests),
    ]


def unsafe_pods(manifests: list[Manifest]) -> list[str]:
    """Pods outside Pod Security "restricted", and those that leave the account's token to a default."""
    found = []
    for name, _, pod in pods(manifests):
        context = pod.get("securityContext", {})
        if context.get("runAsNonRoot") is not True:
            found.append(f"{name}: runAsNonRoot is not true")
        if context.get("runAsUser") in (None, 0):
            found.append(f"{name}: runAsUser is not a number above 0")
        if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            found.append(f"{name}: seccompProfile is not RuntimeDefault")
        if not isinstance(pod.get("automountServiceAccountToken"), bool):
            found.append(f"{name}: automountServiceAccountToken is left to a default")
        if pod.get("serviceAccountName") in (None, "default"):
            found.append(f"{name}: no service account of its own")
        for field in ("hostNetwork", "hostPID", "hostIPC"):
            if pod.get(field):
                found.append(f"{name}: {field}")
        found += [f"{name}: hostPath volume" for volume in pod.get("volumes", []) if "hostPath" in volume]
    return found


def unsafe_containers(manifests: list[Manifest]) -> list[str]:
    """Containers that may write to their image, gain rights, or take any amount of CPU and memory."""
    found = []
    for name, _, pod in pods(manifests):
        for each in containers(pod):
            where, context = f"{name}/{each['name']}", each.get("securityContext", {})
            wanted = {"readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False}
            found += [f"{where}: {key} is not {value}" for key, value in wanted.items()
                      if context.get(key) is not value]  # fmt: skip
            if context.get("capabilities", {}).get("drop") != ["ALL"]:
                found.append(f"{where}: capabilities are not dropped")
            if context.get("privileged") or context.get("capabilities", {}).get("add"):
                found.append(f"{where}: privileged, or has capabilities added")
            if context.get("runAsUser") == 0 or context.get("runAsNonRoot") is False:
                found.append(f"{where}: runs as root")
            found += [
                f"{where}: no {part} of {kind}"
                for part in ("requests", "limits")
                for kind in ("cpu", "memory")
                if kind not in each.get("resources", {}).get(part, {})
            ]
    return found


def loose_images(manifests: list[Manifest]) -> list[str]:
    """Images that mean something else tomorrow."""
    return [
        f"{name}/{each['name']}: image {each['image']}"
        for name, _, pod in pods(manifests)
        for each in containers(pod)
        if not pinned(each["image"])
    ]


def pinned(image: str) -> bool:
    """By digest, or by a tag that is not `latest`; a registry's port is no tag."""
    name, _, digest = image.partition("@")
    if digest:
        return bool(re.fullmatch(r"sha256:[0-9a-f]{64}", digest))
    tag = name.rpartition("/")[2].partition(":")[2]
    return bool(tag) and not tag.startswith("latest")


def plain_secrets(manifests: list[Manifest]) -> list[str]:
    """Passwords and keys that stand in the repo: as a Secret, a variable, or a part of an address."""
    found = []
    for each in manifests:
        if each["kind"] == "Secret" and (each.get("data") or each.get("stringData")):
            found.append(f"{title(each)}: a secret with its data")
        if each["kind"] == "ConfigMap":
            found += [f"{title(each)}: {key}" for key in each.get("data", {}) if SECRET_NAME.search(key)]
        found += [f"{title(each)}: a password in {text!r}" for text in _texts(each)
                  if re.search(r"://[^/\s:@]+:[^/\s@]+@", text)]  # fmt: skip
    for name, _, pod in pods(manifests):
        for container in containers(pod):
            found += [
                f"{name}/{container['name']}: {variable['name']} has its value here"
                for variable in container.get("env", [])
                if "value" in variable and SECRET_NAME.search(variable["name"])
            ]
    return found


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for each in value.values() for text in _texts(each)]
    if isinstance(value, list):
        return [text for each in value for text in _texts(each)]
    return [value] if isinstance(value, str) else []


def dangling_references(manifests: list[Manifest], outside: set[str]) -> list[str]:
    """Secrets, ConfigMaps, accounts and claims that pods name and nobody makes."""
    known = {title(each) for each in manifests} | outside
    named = {(name, one) for name, _, pod in pods(manifests) for one in references(pod)}
    for each in manifests:
        if each["kind"] == "ServiceAccount":
            named |= {(title(each), f"Secret/{secret['name']}") for secret in each.get("secrets", [])}
    return sorted(f"{name}: there is no {one}" for name, one in named if one not in known)


def references(pod: Manifest) -> set[str]:
    """As "Secret/name"."""
    found = {f"ServiceAccount/{pod['serviceAccountName']}"} if pod.get("serviceAccountName") else set()
    for volume in pod.get("volumes", []):
        if "configMap" in volume:
            found.add(f"ConfigMap/{volume['configMap']['name']}")
        if "secret" in volume:
            found.add(f"Secret/{volume['secret']['secretName']}")
        if "persistentVolumeClaim" in volume:
            found.add(f"PersistentVolumeClaim/{volume['persistentVolumeClaim']['claimName']}")
    kinds = {"configMapRef": "ConfigMap", "secretRef": "Secret"}
    keys = {"configMapKeyRef": "ConfigMap", "secretKeyRef": "Secret"}
    for container in containers(pod):
        for source in container.get("envFrom", []):
            found |= {f"{kinds[key]}/{value['name']}" for key, value in source.items() if key in kinds}
        for variable in container.get("env", []):
            source = variable.get("valueFrom", {})
            found |= {f"{keys[key]}/{value['name']}" for key, value in source.items() if key in keys}
    return found


def unguarded_pods(manifests: list[Manifest]) -> list[str]:
    """Pods that no NetworkPolicy names: what is said of all pods is the default, and not of them."""
    policies = [each["spec"] for each in manifests if each["kind"] == "NetworkPolicy"]
    deny = [
        spec
        for spec in policies
        if not spec["podSelector"] and set(spec["policyTypes"]) == {"Ingress", "Egress"}
        and not spec.get("ingress") and not spec.get("egress")
    ]  # fmt: skip
    found = [] if deny else ["NetworkPolicy: nothing denies by default"]
    named = [spec["podSelector"] for spec in policies if spec["podSelector"]]
    return found + [
        f"{name}: no NetworkPolicy of its own"
        for name, labels, _ in pods(manifests)
        if not any(selects(selector, labels) for selector in named)
    ]


def selects(selector: Manifest, labels: Manifest) -> bool:
    """As Kubernetes matches a label selector."""
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    tests = {
        "In": lambda key, values: labels.get(key) in values,
        "NotIn": lambda key, values: labels.get(key) not in values,
        "Exists": lambda key, _: key in labels,
        "DoesNotExist": lambda key, _: key not in labels,
    }
    return all(
        tests[each["operator"]](each["key"], each.get("values", []))
        for each in selector.get("matchExpressions", [])
    )


def wide_roles(manifests: list[Manifest]) -> list[str]:
    """Roles that say "everything", or that read secrets."""
    found = []
    for each in manifests:
        for rule in each.get("rules", []) if each["kind"] in ("Role", "ClusterRole") else []:
            parts = [*rule.get("apiGroups", []), *rule.get("resources", []), *rule.get("verbs", [])]
            if "*" in parts or "secrets" in parts:
                found.append(f"{title(each)}: {rule}")
    return found
