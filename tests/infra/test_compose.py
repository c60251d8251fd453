"""infra/compose.yaml: pinned, locked, and no password that somebody could forget to set."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from tests.infra.manifests import INFRA, find, render
from tests.infra.policies import SECRET_NAME, pinned

TEXT = (INFRA / "compose.yaml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
VARIABLE = re.compile(r"(?<!\$)\$\{(\w+)(:\?[^}]+)?\}")
LOCKED = sorted(set(SERVICES) - {"hand-over"})


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_images_are_pinned_and_those_of_the_cluster(name: str) -> None:
    assert pinned(SERVICES[name]["image"])
    assert SERVICES[name]["image"] in yaml.safe_dump_all(render("overlays/local"))


@pytest.mark.parametrize("name", LOCKED)
def test_services_are_locked(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "network_mode", "pid", "cap_add"} & set(service)


def test_one_service_runs_as_root_for_one_chown() -> None:
    roots = {name for name, service in SERVICES.items() if service.get("user", "0:0") == "0:0"}
    assert roots == {"hand-over"}
    assert (SERVICES["hand-over"]["cap_add"], SERVICES["hand-over"]["network_mode"]) == (["CHOWN"], "none")


def test_every_variable_is_required_and_in_the_example() -> None:
    named = VARIABLE.findall(TEXT)
    assert named
    assert [name for name, message in named if not message] == []
    example = re.findall(r"^(\w+)=(.*)$", (INFRA / "env.example").read_text(), re.MULTILINE)
    assert {name for name, _ in named} == {name for name, _ in example}
    assert {value for _, value in example} == {""}


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_secrets_come_from_variables(name: str) -> None:
    for key, value in SERVICES[name].get("environment", {}).items():
        if SECRET_NAME.search(key):
            assert VARIABLE.fullmatch(value), key


def test_only_mlflow_is_reached_and_only_from_this_host() -> None:
    assert {name: service["ports"] for name, service in SERVICES.items() if "ports" in service} == {
        "mlflow": ["127.0.0.1:5000:5000"]
    }
    inner = {name for name, network in COMPOSE["networks"].items() if network.get("internal")}
    assert {name for name in SERVICES if set(SERVICES[name].get("networks", [])) - inner} == {"mlflow"}


def test_what_is_named_is_there() -> None:
    for service in SERVICES.values():
        assert set(service.get("networks", [])) <= set(COMPOSE["networks"])
        assert set(service.get("depends_on", {})) <= set(SERVICES)
        for volume in service.get("volumes", []):
            place = volume["source"] if isinstance(volume, dict) else volume.partition(":")[0]
            assert (INFRA / place).exists() if place.startswith(".") else place in COMPOSE["volumes"]


def test_mlflow_is_started_as_on_the_cluster() -> None:
    (container,) = find(render("base"), "Deployment", "mlflow")["spec"]["template"]["spec"]["containers"]
    assert SERVICES["mlflow"]["command"] == [*container["command"], *container["args"]]
    asked = {variable["name"] for variable in container["env"]}
    assert asked <= set(SERVICES["mlflow"]["environment"])
