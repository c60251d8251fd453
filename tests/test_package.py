"""What `import graft` promises."""

import subprocess
import sys
from pathlib import Path

import pytest

import graft
from graft.errors import GraftError


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_importing_graft_costs_no_heavy_import() -> None:
    loaded = python("import sys, graft; print([m for m in ('torch', 'mlflow', 'kfp') if m in sys.modules])")
    assert loaded.strip() == "[]"


def test_torchvision_imports_beside_a_torch_without_cuda() -> None:
    """The package index's wheel is built for CUDA and fails on its own beside a CPU build of torch."""
    code = "import graft, torchvision; print(torchvision.models.resnet18().fc.in_features)"
    assert python(code).strip() == "512"


def test_loading_what_is_no_classifier_names_the_folder(tmp_path: Path) -> None:
    with pytest.raises(GraftError, match=r"model\.json"):
        graft.load(tmp_path)
