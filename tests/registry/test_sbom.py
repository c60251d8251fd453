"""The bill of materials: right, valid, and never worth losing a model over."""

from __future__ import annotations

import json
import sys
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


def test_without_the_tool_registration_goes_on_and_says_so(
    enter: Callable[..., dict[str, Any]],
    candidate: Callable[..., Path],
    registry: Registry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    afresh: None,
) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'No module named cyclonedx_py' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sbom.sys, "executable", str(broken))
    result = enter(candidate())
    monkeypatch.undo()
    assert result["champion"]
    assert "no software bill of materials: No module named cyclonedx_py" in capsys.readouterr().err
    client = MlflowClient(registry.tracking_uri)
    assert "sbom.cdx.json" not in {file.path for file in client.list_artifacts(result["run_id"])}


@pytest.mark.parametrize("command", ["sleep 9", "exit 0"])
def test_a_tool_that_hangs_or_writes_nothing_is_said(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    afresh: None,
) -> None:
    broken = tmp_path / "python"
    broken.write_text(f"#!/bin/sh\nexec {command}\n" if command != "exit 0" else "#!/bin/sh\nexit 0\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sbom, "SECONDS", 1)
    monkeypatch.setattr(sys, "executable", str(broken))
    sbom.write_bill(tmp_path / "sbom.cdx.json")
    assert "no software bill of materials" in capsys.readouterr().err
    assert not (tmp_path / "sbom.cdx.json").exists()
