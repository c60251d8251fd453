"""The bill of materials: right, valid, and never worth losing a model over."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonValidator
from mlflow import MlflowClient

from graft.params import Registry
from graft.registry import sbom


@pytest.fixture
def afresh() -> Iterator[None]:
    """No bill from earlier tests, and none from this one for later tests."""
    sbom.bill_of_materials.cache_clear()
    yield
    sbom.bill_of_materials.cache_clear()


def test_it_lists_what_is_installed() -> None:
    bill = json.loads(sbom.bill_of_materials())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    found = {each["name"].lower(): each["version"] for each in bill["components"]}
    for package in ("torch", "mlflow", "numpy", "pillow"):
        assert found[package] == version(package)
    assert sbom.bill_of_materials() is sbom.bill_of_materials()  # once per process


def test_it_is_valid() -> None:
    bill = json.loads(sbom.bill_of_materials())
    some = bill["components"][:40]  # the validator compares each with each
    kept = {each["bom-ref"] for each in some}
    depending = [{"ref": each["ref"]} for each in bill["dependencies"] if each["ref"] in kept]
    text = json.dumps({**bill, "components": some, "dependencies": depending})
    validator = JsonValidator(SchemaVersion.V1_6)
    assert validator.validate_str(text) is None
    assert validator.validate_str(text.replace('"library"', '"bookshelf"')) is not None


def test_a_version_comes_with_its_bill(
    enter: Callable[..., dict[str, Any]], candidate: Callable[..., Path], registry: Registry
) -> None:
    result = enter(candidate())
    file = MlflowClient(registry.tracking_uri).download_artifacts(result["run_id"], "sbom.cdx.json")
    assert Path(file).read_text(encoding="utf-8") == sbom.bill_of_materials()


def test_where_it_cannot_be_made_registration_goes_on_and_says_so(
    enter: Callable[..., dict[str, Any]],
    candidate: Callable[..., Path],
    registry: Registry,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    afresh: None,
) -> None:
    def broken() -> None:
        raise OSError("the site folder cannot be read")

    monkeypatch.setattr(sbom, "distributions", broken)
    result = enter(candidate())
    monkeypatch.undo()
    assert result["champion"]
    said = capsys.readouterr().err
    assert "no software bill of materials: OSError: the site folder cannot be read" in said
    client = MlflowClient(registry.tracking_uri)
    assert "sbom.cdx.json" not in {file.path for file in client.list_artifacts(result["run_id"])}


def test_equal_environments_have_equal_bills(afresh: None) -> None:
    first = sbom.bill_of_materials()
    sbom.bill_of_materials.cache_clear()
    assert sbom.bill_of_materials() == first


def test_it_says_what_graft_is_and_needs() -> None:
    bill = json.loads(sbom.bill_of_materials())
    itself = bill["metadata"]["component"]
    assert (itself["name"], itself["type"]) == ("graft", "application")
    needs = {each["ref"]: each.get("dependsOn", []) for each in bill["dependencies"]}
    assert f"torch=={version('torch')}" in needs[itself["bom-ref"]]
    refs = {each["bom-ref"] for each in bill["components"]}
    assert {one for each in needs.values() for one in each} <= refs
    licences = {each["name"]: each.get("licenses") for each in bill["components"]}
    assert licences["torch"]
    assert sum(map(bool, licences.values())) > 0.9 * len(licences)
