"""Who may talk to whom, worked out from the NetworkPolicies as Kubernetes adds them up."""

from __future__ import annotations

import pytest

from tests.infra.manifests import FOLDERS, Manifest, render
from tests.infra.policies import selects

OURS = ("mlflow", "postgres", "backup", "restore", "roll", "users", "object-store", "stranger")
JOBSET = "jobset.sigs.k8s.io/jobset-name"
# (namespace, labels)
PODS = {
    **{name: ("graft", {"app": name}) for name in OURS},
    "champion": ("graft", {"serving.kserve.io/inferenceservice": "champion"}),
    "step": ("kubeflow", {"pipelines.kubeflow.org/v2_component": "true"}),
    "training": ("kubeflow", {JOBSET: "job"}),
    "client": ("shop", {"app": "shop"}),
    "foreigner": ("other", {"app": "mlflow", JOBSET: "job"}),
}
LABELLED = {"shop": {"graft/client": "true"}}  # what namespaces carry beside their name
PORTS = (5000, 5432, 8080, 8333, 29500)


def may_talk(policies: list[Manifest], source: str, target: str, port: int) -> bool:
    """What leaves the source and what enters the target must both be allowed."""
    return _allowed(policies, "egress", source, target, port) and _allowed(
        policies, "ingress", target, source, port
    )


def _allowed(policies: list[Manifest], way: str, own: str, other: str, port: int) -> bool:
    """Of a pod that no policy of this direction selects everything is."""
    namespace, labels = PODS[own]
    mine = [
        each["spec"]
        for each in policies
        if each["metadata"]["namespace"] == namespace
        and way.capitalize() in each["spec"]["policyTypes"]
        and selects(each["spec"]["podSelector"], labels)
    ]
    rules = [rule for spec in mine for rule in spec.get(way, [])]
    return not mine or any(_rule(rule, way, namespace, other, port) for rule in rules)


def _rule(rule: Manifest, way: str, namespace: str, other: str, port: int) -> bool:
    ports = [each["port"] for each in rule.get("ports", [])]
    peers = rule["from" if way == "ingress" else "to"]
    return (not ports or port in ports) and any(_peer(peer, namespace, other) for peer in peers)


def _peer(peer: Manifest, namespace: str, other: str) -> bool:
    if "ipBlock" in peer:
        return False  # addresses outside the cluster
    place, labels = PODS[other]
    if "namespaceSelector" in peer:
        named = {"kubernetes.io/metadata.name": place, **LABELLED.get(place, {})}
        return selects(peer["namespaceSelector"], named) and selects(peer.get("podSelector", {}), labels)
    return place == namespace and selects(peer["podSelector"], labels)


WAYS = {
    ("mlflow", "postgres", 5432),
    ("backup", "postgres", 5432),
    ("restore", "postgres", 5432),
    ("roll", "mlflow", 5000),
    ("users", "mlflow", 5000),
    ("step", "mlflow", 5000),
    ("training", "mlflow", 5000),
    ("client", "champion", 8080),
}
RANKS = {("training", "training", port) for port in PORTS}
STORE = {
    (name, "object-store", 8333) for name in ("mlflow", "backup", "restore", "champion", "step", "training")
}
ADDED = {"base": set(), "overlays/local": RANKS | STORE, "overlays/production": RANKS}


@pytest.mark.parametrize("folder", FOLDERS)
def test_who_may_talk_to_whom(folder: str) -> None:
    policies = [each for each in render(folder) if each["kind"] == "NetworkPolicy"]
    guarded = [name for name, (place, _) in PODS.items() if place == "graft"]
    guarded += ["training"] if folder != "base" else []  # the base says nothing of KFP's namespace
    ways = {
        (source, target, port)
        for source in PODS
        for target in guarded
        for port in PORTS
        if may_talk(policies, source, target, port)
    }
    assert ways == WAYS | ADDED[folder]


def test_postgres_and_the_champion_reach_nobody_in_the_cluster() -> None:
    policies = [each for each in render("overlays/production") if each["kind"] == "NetworkPolicy"]
    for source in ("postgres", "champion", "stranger"):
        assert not [
            target for target in PODS if any(may_talk(policies, source, target, port) for port in PORTS)
        ]
